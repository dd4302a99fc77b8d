"""Conversations that agents remember: session stores in memory, in SQLite and in PostgreSQL."""
