"""What `--rest_api_port` answers: the state of a model, for health checks.

TensorFlow Serving's REST dialect, predictions included, is spoken by the client in front of this
server; here are only `GET /v1/models/NAME[/versions/N]`, which tell whether a version is AVAILABLE.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import model_pb2

from serving.errors import ServingError
from serving.manager import Manager, Version

STATUS_PATH = re.compile(r"/v1/models/([^/:?]+)(?:/versions/([0-9]{1,18}))?")
ELSEWHERE = (
    "only GET /v1/models/NAME[/versions/N] is answered here; the client in front of this server "
    "speaks TensorFlow Serving's REST API"
)
_ERROR_NAMES = {
    number: name
    for name, number in vars(tf.errors).items()
    if name.isupper() and isinstance(number, int)
}


class StatusPage:
    """A small HTTP server in a thread of its own, beside a running event loop."""

    def __init__(self, manager: Manager, bind_address: str, port: int) -> None:
        """Listen on the port.

        Raises:
            OSError: it cannot be listened on.
        """
        loop = asyncio.get_running_loop()

        async def find(spec: Any) -> list[Version]:
            return manager.status(spec)

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                status = 404
                body: dict[str, Any] = {"error": ELSEWHERE}
                if match := STATUS_PATH.fullmatch(self.path):
                    spec = model_pb2.ModelSpec(name=match[1])
                    if match[2]:
                        spec.version.value = int(match[2])
                    try:
                        # The manager's state belongs to the event loop.
                        found = asyncio.run_coroutine_threadsafe(find(spec), loop).result(5)
                        status, body = 200, {"model_version_status": [_as_json(v) for v in found]}
                    except ServingError as error:
                        body = {"error": error.message}
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep health checks out of the log."""

        self._server = ThreadingHTTPServer((bind_address, port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _as_json(version: Version) -> dict[str, Any]:
    error = version.error
    return {
        "version": str(version.number),
        "state": version.state.name,
        "status": {
            "error_code": _ERROR_NAMES.get(error.number, "UNKNOWN") if error else "OK",
            "error_message": error.message if error else "",
        },
    }
