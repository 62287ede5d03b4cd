"""Recall channels, one file each."""
