"""Arrow's streaming format."""
