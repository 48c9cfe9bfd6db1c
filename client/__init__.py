"""The client: HTTP to gRPC, for any model behind TensorFlow Serving's API.

`ModelServer` and `AsyncModelServer` are the Python client; `python -m client` is the command line;
`client.http` answers HTTP. None of them loads the TensorFlow runtime.
"""

__version__ = "0.2.0"

from client.errors import ClientError
from client.serving.client import AsyncModelServer, ModelServer

__all__ = ["AsyncModelServer", "ClientError", "ModelServer"]
