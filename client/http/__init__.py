"""The HTTP transport: the short way on the event loop, and the Flask application behind it."""
