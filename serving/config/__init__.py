"""Configuration files in protobuf's text format, and their messages."""
