"""Arrow's IPC streaming format."""
