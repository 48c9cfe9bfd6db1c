"""From decoded requests to predictions: schemas, batches, input ranges."""
