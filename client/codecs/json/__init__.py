"""The project's own JSON dialect."""
