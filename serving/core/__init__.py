"""Discovery, loading, serving and unloading of versions, independent of their type."""
