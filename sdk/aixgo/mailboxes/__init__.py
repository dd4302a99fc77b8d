"""Mailboxes: the bounded queues behind `send` and `recv`, in memory, in one SQLite file, or in NATS JetStream."""
