"""What `--rest_api_port` answers: the state of a model, for health checks, and metrics.

TensorFlow Serving's REST dialect, predictions included, is spoken by the client in front of this
server; here are only the paths of a model's state, as that dialect has them, and the metrics.
"""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import tensorflow as tf
from prometheus_client import CONTENT_TYPE_LATEST
from tensorflow_serving.apis import model_pb2

from serving.core.servable_harness import Version
from serving.core.server_core import ServerCore
from serving.core.source import LARGEST_VERSION
from serving.errors import ServingError
from serving.model_servers.monitoring import Monitoring

# As in the original a label is not looked at.
STATUS_PATH = re.compile(r"/v1/models/([^/:?]+)(?:/versions/([0-9]{1,19})|/labels/[^/:?]+)?")
ELSEWHERE = (
    "only GET /v1/models/NAME[/versions/N|/labels/L]{metrics} is answered here; the client in "
    "front of this server speaks TensorFlow Serving's REST API"
)
MOST_CONNECTIONS = 256
# In which a request must have come.
HEAD_SECONDS = 5.0
_ERROR_NAMES = {
    number: name
    for name, number in vars(tf.errors).items()
    if name.isupper() and isinstance(number, int)
}


@dataclass(frozen=True)
class HttpOptions:
    """How the port is served.

    Attributes:
        bind_address: the address to listen on.
        port: the port.
        threads: how many requests are answered at once.
        timeout: seconds that a connection may keep silent.
        cors: whether pages of other origins may read the answers.
        metrics_path: where the metrics are; empty: nowhere.
    """

    bind_address: str
    port: int
    threads: int
    timeout: float
    cors: bool
    metrics_path: str


class HttpPort(HTTPServer):
    """A small HTTP server with threads of its own."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # of connections that nobody has taken yet; the system drops others

    def __init__(self, options: HttpOptions, core: ServerCore, monitoring: Monitoring) -> None:
        """Take the port; `start` begins to listen.

        Raises:
            OSError: it is taken.
        """
        super().__init__((options.bind_address, options.port), _Handler, bind_and_activate=False)
        self.server_bind()
        self.options = options
        self.core = core
        self.monitoring = monitoring
        # Whoever is slow to ask holds a thread, and must not keep others from being answered.
        self._pool = ThreadPoolExecutor(MOST_CONNECTIONS, "http")
        self.answering = threading.Semaphore(options.threads)

    def start(self) -> None:
        """Begin to listen and to answer."""
        self.server_activate()
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in one of the threads."""
        self._pool.submit(self._answer, request, client_address)

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the caller has gone
        finally:
            self.shutdown_request(request)


class _Reader(io.RawIOBase):
    """Reads a connection until a moment, however little comes at a time."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: HttpPort

    def setup(self) -> None:
        super().setup()
        seconds = min(self.server.options.timeout, HEAD_SECONDS)
        self.rfile = io.BufferedReader(_Reader(self.connection, seconds))

    def do_GET(self) -> None:
        # From here on it is about writing.
        self.connection.settimeout(self.server.options.timeout)
        with self.server.answering:
            self._answer()

    def _answer(self) -> None:
        options = self.server.options
        path = self.path.partition("?")[0]
        if options.metrics_path and path == options.metrics_path:
            self._reply(200, self.server.monitoring.exposition(), CONTENT_TYPE_LATEST)
        elif (match := STATUS_PATH.fullmatch(self.path)) and int(match[2] or 0) <= LARGEST_VERSION:
            spec = model_pb2.ModelSpec(name=match[1])
            if match[2]:
                spec.version.value = int(match[2])
            try:
                found = self.server.core.status(spec)
            except ServingError as error:
                self._reply_json(404, {"error": error.message})
            else:
                body = {"model_version_status": [_as_json(version) for version in found]}
                self._reply_json(200, body)
        else:
            self._refuse()

    def do_POST(self) -> None:
        self._refuse()

    def do_HEAD(self) -> None:
        self._refuse()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Tell what is wrong with a request as everything else is told, in JSON."""
        self.close_connection = True
        self.request_version = self.protocol_version  # what came may have been no version at all
        self._reply_json(code, {"error": message or HTTPStatus(code).phrase})

    def _refuse(self) -> None:
        path = self.server.options.metrics_path
        metrics = f" and GET {path}" if path else ""
        self.close_connection = True  # a body that was not read is not the next request
        self._reply_json(404, {"error": ELSEWHERE.format(metrics=metrics)})

    def _reply_json(self, status: int, body: dict[str, Any]) -> None:
        self._reply(status, json.dumps(body).encode(), "application/json")

    def _reply(self, status: int, data: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        headers = getattr(self, "headers", None)  # there are none if they could not be read
        if self.server.options.cors and headers is not None and headers.get("Origin"):
            self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep health checks out of the log."""


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
