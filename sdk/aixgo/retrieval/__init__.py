"""Retrieval: documents as chunks in a vector store, found again by meaning and by words."""
