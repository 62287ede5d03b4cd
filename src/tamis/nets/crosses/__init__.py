"""Feature crosses: what the fine ranker multiplies before its experts read it; one file each."""
