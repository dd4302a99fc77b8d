"""The processes of a fleet and the command line: wiring only."""
