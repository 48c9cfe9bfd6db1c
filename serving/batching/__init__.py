"""Server-side batching of concurrent requests."""
