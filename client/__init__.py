"""The client: HTTP to gRPC, for any model behind TensorFlow Serving's API.

`ServingClient` and `AsyncServingClient` are the Python client, `python -m client` the command line,
and `client.http` answers HTTP. None of them loads the TensorFlow runtime.
"""

__version__ = "0.3.0"

from client.errors import ClientError
from client.serving.async_client import AsyncServingClient
from client.serving.client import ServingClient

__all__ = ["AsyncServingClient", "ClientError", "ServingClient"]
