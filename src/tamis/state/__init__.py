"""What the system remembers between requests: one protocol, several backends."""
