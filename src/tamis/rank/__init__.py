"""Ranking: predicted behaviour, calibrated and fused into one score."""
