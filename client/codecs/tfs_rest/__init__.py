"""TensorFlow Serving's REST dialect: what it reads, what it answers, and its words for errors.

The behaviour is that of TensorFlow Serving 2.12 (tensorflow_serving/util/json_tensor.cc and
model_servers/http_rest_api_util.cc), as recordings of it show; what differs here, and why, is
listed in `tests/contract/rest_differences.toml`.
"""
