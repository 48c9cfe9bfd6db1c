"""The access log: one line of JSON for each request that is logged."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Mapping

from pythonjsonlogger.orjson import OrjsonFormatter

from client.codecs.response import Headers
from client.http.messages import HttpRequest
from client.http.responses import VERSION_HEADER
from client.observability.prediction_ids import is_id

log = logging.getLogger("client.access")

ID_HEADER = "X-Request-ID"
_BAD_REQUEST = 400
_SERVER_ERROR = 500
# Bounds what a caller can write to the log.
_MAX_LOGGED = 1000


def set_up_logs() -> None:
    """Write logs to standard error, one JSON object per line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        OrjsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def read_request_id(headers: Mapping[str, str]) -> str | None:
    """Return the request id sent by the caller, None if it is missing or invalid."""
    value = headers.get("x-request-id")
    return value if value is not None and is_id(value) else None


def record(
    request: HttpRequest,
    status: int,
    headers: Headers,
    *,
    route: str,
    caller: str | None,
    seconds: float,
    logged: bool,
    body: bytes | None,
    left_out: int = 0,
) -> Headers:
    """Log a request if required, and return the response headers with the request id.

    Args:
        request: the request.
        status: the response's status.
        headers: the response's headers.
        route: the pattern of the path.
        caller: the name of the API key.
        seconds: time since the request arrived.
        logged: whether to log it.
        body: the response's body, from which errors are logged; None if not known yet.
        left_out: number of earlier failures that were not logged, to limit the rate.
    """
    request_id = read_request_id(request.headers)
    if logged:
        request_id = request_id or uuid.uuid4().hex
        log.log(
            logging.ERROR if status >= _SERVER_ERROR else logging.INFO,
            "%s %s",
            request.method[:_MAX_LOGGED],
            request.path[:_MAX_LOGGED],
            extra={
                "request_id": request_id,
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 3),
                "model_version": dict(headers).get(VERSION_HEADER),
                "caller": caller,
                "bytes_in": len(request.body),
                "bytes_out": None if body is None else len(body),
                **({"left_out": left_out} if left_out else {}),
                **({} if status < _BAD_REQUEST or body is None else {"reply": _text(body)}),
            },
        )
    return headers if request_id is None else (*headers, (ID_HEADER, request_id))


def _text(body: bytes) -> str:
    return body[:_MAX_LOGGED].decode("utf-8", "replace").strip()
