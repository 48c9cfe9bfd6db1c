"""The model server: TensorFlow Serving's gRPC API, flags and version handling in plain Python.

source (watches paths) → manager (versions and their states) → servable (one loaded version) →
services (gRPC). It meets the other rooms in two public formats only: the SavedModel version
directory that it loads, and the TensorFlow Serving gRPC API that it answers.
"""
