"""Indexes that parts search."""
