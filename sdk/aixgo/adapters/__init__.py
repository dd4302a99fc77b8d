"""Agents of other frameworks as agents of aixgo; each file needs the extra of its framework."""
