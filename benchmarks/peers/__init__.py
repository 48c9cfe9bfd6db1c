"""Programs that are measured alongside the client, each in an environment of its own."""
