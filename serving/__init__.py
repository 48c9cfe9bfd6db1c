"""The embedded model server: TensorFlow Serving's gRPC API, flags and version handling in Python.

It shares only two public formats with the other packages: the SavedModel version directories that
it loads and the TensorFlow Serving gRPC API that it serves.
"""
