"""Generated from proto/aixgo/v1; `make proto` writes it."""
