"""Who may speak with whom, and that nobody listens in: TLS, identities, tokens, and rules of access."""
