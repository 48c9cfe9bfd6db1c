"""The server: its flags, ports, services and metrics."""
