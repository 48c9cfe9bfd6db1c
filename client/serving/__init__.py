"""The Python client of TensorFlow Serving's gRPC API."""
