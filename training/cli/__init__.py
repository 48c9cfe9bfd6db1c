"""The command line: options, parameter types, progress."""
