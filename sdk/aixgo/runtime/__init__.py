"""Where agents are found and called: one contract, in one process (LocalRuntime) or over gRPC (DistributedRuntime)."""
