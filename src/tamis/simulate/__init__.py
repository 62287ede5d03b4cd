"""A synthetic world whose true preferences are known."""
