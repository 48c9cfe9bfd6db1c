"""The gate, the export check, manifests and version directories."""
