"""Orchestration patterns. Each is an agent that calls other agents."""
