"""The HTTP server of `--rest_api_port`, which serves model status and metrics.

Predictions over REST are the client's job.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import tensorflow as tf
import waitress.channel
import waitress.server
from prometheus_client import CONTENT_TYPE_LATEST
from tensorflow_serving.apis import model_pb2

from serving.core.servable_harness import ServableHarness
from serving.core.server_core import ServerCore
from serving.core.source import MAX_VERSION
from serving.errors import ServingError
from serving.model_servers.addresses import bind_socket
from serving.model_servers.monitoring import Monitoring

# As in TensorFlow Serving, labels are ignored.
STATUS_PATH = re.compile(r"/v1/models/([^/:?]+)(?:/versions/([0-9]{1,19})|/labels/[^/:?]+)?")
NOT_FOUND_MESSAGE = (
    "this port serves only GET /v1/models/NAME[/versions/N|/labels/L]{metrics}; the client in "
    "front of this server serves TensorFlow Serving's REST API"
)
MAX_CONNECTIONS = 1000
# No supported request has a body.
MAX_BODY_BYTES = 2**16
# Maximum seconds that a connection may be idle, or a request may take to arrive.
REQUEST_TIMEOUT_SECONDS = 5
_ERROR_NAMES = {
    number: name
    for name, number in vars(tf.errors).items()
    if name.isupper() and isinstance(number, int)
}

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True)
class HttpOptions:
    """Options of the HTTP port.

    Attributes:
        bind_address: the address to listen on.
        port: the port to listen on.
        threads: maximum number of requests answered concurrently.
        timeout: seconds after which an idle connection is closed, rounded down to a whole number
            from 1 to `REQUEST_TIMEOUT_SECONDS`.
        cors: allow pages from other origins to read the responses.
        metrics_path: the path of the metrics; empty: no metrics.
    """

    bind_address: str
    port: int
    threads: int
    timeout: float
    cors: bool
    metrics_path: str


class StatusApp:
    """A WSGI application that serves model status and metrics."""

    def __init__(
        self, core: ServerCore, monitoring: Monitoring, *, cors: bool, metrics_path: str
    ) -> None:
        self._core = core
        self._monitoring = monitoring
        self._cors = cors
        self._metrics_path = metrics_path

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        status, content_type, body = self._respond(environ)
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        if self._cors and "HTTP_ORIGIN" in environ:
            headers.append(("Access-Control-Allow-Origin", "*"))
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def _respond(self, environ: Environ) -> tuple[HTTPStatus, str, bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "GET":
            if self._metrics_path and path == self._metrics_path:
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, self._monitoring.exposition()
            match = None if environ.get("QUERY_STRING") else STATUS_PATH.fullmatch(path)
            if match and int(match[2] or 0) <= MAX_VERSION:
                return self._model_status(match[1], match[2])
        metrics = f" and GET {self._metrics_path}" if self._metrics_path else ""
        return _json(HTTPStatus.NOT_FOUND, {"error": NOT_FOUND_MESSAGE.format(metrics=metrics)})

    def _model_status(self, name: str, version: str | None) -> tuple[HTTPStatus, str, bytes]:
        # WSGI decodes the path as latin-1.
        spec = model_pb2.ModelSpec(name=name.encode("latin-1").decode("utf-8", "replace"))
        if version:
            spec.version.value = int(version)
        try:
            harnesses = self._core.status(spec)
        except ServingError as error:
            return _json(HTTPStatus.NOT_FOUND, {"error": error.message})
        return _json(HTTPStatus.OK, {"model_version_status": [*map(_version_status, harnesses)]})


class HttpServer:
    """Serves the application in its own threads."""

    def __init__(self, options: HttpOptions, core: ServerCore, monitoring: Monitoring) -> None:
        """Bind the port; `start` listens.

        Raises:
            AddressError: the address cannot be bound.
        """
        self._options = options
        self._app = StatusApp(
            core, monitoring, cors=options.cors, metrics_path=options.metrics_path
        )
        self._socket = bind_socket(options.bind_address, options.port)
        self._server: Any = None

    def start(self) -> None:
        """Listen and serve requests."""
        # Failed requests concern the caller, and a full queue is visible as latency.
        logging.getLogger("waitress").setLevel(logging.ERROR)
        self._server = waitress.server.create_server(
            self._app,
            sockets=[self._socket],
            threads=self._options.threads,
            channel_timeout=max(1, int(min(self._options.timeout, REQUEST_TIMEOUT_SECONDS))),
            cleanup_interval=1,
            connection_limit=MAX_CONNECTIONS,
            max_request_body_size=MAX_BODY_BYTES,
            asyncore_use_poll=True,
            log_socket_errors=False,
            ident="",
        )
        self._server.channel_class = _Channel
        threading.Thread(target=self._server.run, name="http", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.close()


class _Channel(waitress.channel.HTTPChannel):
    """A connection that is closed unless each request arrives within the deadline."""

    last_activity: float

    def handle_read(self) -> None:
        last_activity = self.last_activity
        super().handle_read()
        if self.request is not None:  # an incomplete request does not extend the deadline
            self.last_activity = last_activity


def _json(status: HTTPStatus, body: dict[str, Any]) -> tuple[HTTPStatus, str, bytes]:
    return status, "application/json", json.dumps(body).encode()


def _version_status(harness: ServableHarness) -> dict[str, Any]:
    error = harness.error
    return {
        "version": str(harness.version),
        "state": harness.state.name,
        "status": {
            "error_code": _ERROR_NAMES.get(error.number, "UNKNOWN") if error else "OK",
            "error_message": error.message if error else "",
        },
    }
