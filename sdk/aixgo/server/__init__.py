"""Serving agents: `serve(call)`, neutral of any transport, and the thin servicers around it."""
