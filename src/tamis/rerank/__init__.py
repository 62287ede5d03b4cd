"""Re-ranking: diversity and rules."""
