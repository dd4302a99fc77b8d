"""What only processes can do: die, drain, lose their control plane, be called by foreign tools."""
