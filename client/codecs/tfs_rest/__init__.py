"""TensorFlow Serving's REST API, as of version 2.20.

Sources: tensorflow_serving/util/json_tensor.cc, model_servers/http_rest_api_util.cc, and recordings
(tests/contract/corpus). `tests/contract/rest_differences.toml` lists the differences, with
reasons.
"""
