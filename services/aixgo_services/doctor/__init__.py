"""What `aixgo doctor` looks at, and what it says. Each check is a function of what it is given."""
