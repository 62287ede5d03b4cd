"""The assembled funnel on held-out days; the public protocols for one model on one data set."""
