"""Filters: what must not be shown."""
