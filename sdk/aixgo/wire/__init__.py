"""Between Python objects and the messages of proto/aixgo/v1."""
