"""Every promise of the design, once, against LocalRuntime and against DistributedRuntime over real processes."""
