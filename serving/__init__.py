"""The embedded model server: TensorFlow Serving's gRPC API, flags and version handling in Python.

It meets the other rooms in two public formats only: the SavedModel version directories that it
loads, and the TensorFlow Serving gRPC API that it serves.
"""
