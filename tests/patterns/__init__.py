"""All patterns by one table: in both runtimes, from Python and YAML, nested, failing and streaming."""
