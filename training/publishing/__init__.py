"""The gate, the check of an export, manifests and version directories."""
