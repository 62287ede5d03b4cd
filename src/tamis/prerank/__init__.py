"""Pre-ranking: thousands of candidates to hundreds."""
