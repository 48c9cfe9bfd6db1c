"""The client: HTTP to gRPC, for any model behind TensorFlow Serving's API.

`ModelServer` is the Python client; `python -m client` is the command line; `client.app` is the
Flask application. None of them loads the TensorFlow runtime.
"""

from client.errors import ClientError
from client.model_server import ModelServer

__all__ = ["ClientError", "ModelServer"]
