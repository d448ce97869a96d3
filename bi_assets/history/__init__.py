"""Change logs to what was true when."""
