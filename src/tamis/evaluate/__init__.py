"""The assembled funnel on held-out days."""
