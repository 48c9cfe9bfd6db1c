"""Programs that are measured beside the client, each run in an environment of its own."""
