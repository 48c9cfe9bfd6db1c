"""The HTTP transport: a fast path on the event loop, and the Flask application behind it."""
