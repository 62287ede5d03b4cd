"""Features, declared once and encoded by the same code offline and online."""
