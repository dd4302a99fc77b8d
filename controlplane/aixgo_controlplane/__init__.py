"""The control plane: the registry of instances, kept alive by leases. Never on the data path."""
