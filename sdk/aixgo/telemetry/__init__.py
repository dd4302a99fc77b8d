"""Spans, metrics and their set-up."""
