"""Who asked what and how it went: one line of JSON for each request that is worth it."""

from __future__ import annotations

import logging
import re
import sys
import uuid

from pythonjsonlogger.orjson import OrjsonFormatter

from client.exchange import HttpReply, HttpRequest
from client.settings import AccessLog
from client.web.answers import VERSION_HEADER

log = logging.getLogger("client.access")

ID_HEADER = "X-Request-ID"
_ID = re.compile(r"[\w.:/=+-]{1,128}", re.ASCII)
_SERVER_ERROR = 500


def set_up_logs() -> None:
    """Write logs to standard error, a JSON object a line."""
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


def request_id(request: HttpRequest) -> str | None:
    """Return the id that the caller gave to a request, None if it gave none that can be used."""
    sent = request.headers.get("x-request-id")
    return sent if sent is not None and _ID.fullmatch(sent) else None


def record(
    request: HttpRequest,
    reply: HttpReply,
    *,
    route: str,
    caller: str | None,
    seconds: float,
    which: AccessLog,
) -> HttpReply:
    """Log a request if it is to be, and return its reply, with the request's id.

    Args:
        request: as it came.
        reply: to it.
        route: the pattern of its path.
        caller: the name of its API key.
        seconds: from its arrival on.
        which: requests are logged.
    """
    logged = which == "all" or (which == "errors" and reply.status >= _SERVER_ERROR)
    identity = request_id(request)
    if logged:
        identity = identity or uuid.uuid4().hex
        log.log(
            logging.ERROR if reply.status >= _SERVER_ERROR else logging.INFO,
            "%s %s",
            request.method,
            request.path,
            extra={
                "request_id": identity,
                "route": route,
                "status": reply.status,
                "milliseconds": round(seconds * 1000, 3),
                "model_version": dict(reply.headers).get(VERSION_HEADER),
                "caller": caller,
                "bytes_in": len(request.body),
                "bytes_out": len(reply.body),
            },
        )
    if identity is None:
        return reply
    headers = (*reply.headers, (ID_HEADER, identity))
    return HttpReply(reply.body, reply.status, reply.content_type, headers)
