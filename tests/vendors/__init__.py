"""One suite for every vendor: its official SDK, driven by aixgo, against a local server that speaks its wire format."""
