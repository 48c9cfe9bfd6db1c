"""The command line of monitoring."""
