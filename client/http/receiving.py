"""The receiving half of a connection: parsing, size and time limits, and the order of requests.

Its subclass `ApiProtocol` answers the requests.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from client.errors import ClientError
from client.http.body_stream import BodyStream, TruncatedBodyError
from client.http.connections import Connections
from client.http.gateway import Gateway
from client.http.heads import (
    HEAD_TOO_LONG,
    MAX_HEAD_BYTES,
    NO_HEAD,
    TRAILERS_TOO_LONG,
    RequestMessage,
    read_head,
)
from client.http.jobs import ApiJob
from client.http.messages import HttpRequest
from client.http.request_body import too_large, too_late

# A request's head must arrive within this time.
HEAD_SECONDS = 5.0
# How long an idle connection is kept: longer than load balancers keep theirs.
KEEP_ALIVE_SECONDS = 75.0
# When the service stops, idle connections get this long to send a last request.
STOPPING_SECONDS = 1.0
NEVER = float("inf")
IDLE, HEAD, BODY = 0, 1, 2

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ReceivingProtocol(HttpToolsProtocol):
    """Receives the requests of one connection.

    Attributes:
        deadline: when to call `expire`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gateway: Gateway = self.app_state["gateway"]
        self._connections: Connections = self.app_state["connections"]
        settings = self._gateway.settings
        self._max_body, self._max_table = settings.max_body_bytes, settings.max_table_bytes
        self._body_seconds = settings.body_timeout
        self._state = IDLE
        # Bytes of the head so far, or of the body's framing and trailers since its last content.
        self._head_bytes = 0
        self._has_content = False
        self._last_head = NO_HEAD
        self._incoming: RequestMessage | None = None
        self._messages: deque[RequestMessage] = deque()
        self._job: ApiJob | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._closing = False
        self._is_unread = False
        self._half_closed = False
        self.deadline = NEVER

    # The transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Track a new connection."""
        super().connection_made(transport)
        self._connections.add(self)
        self.deadline = self.loop.time() + KEEP_ALIVE_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the requests of a caller that has disconnected."""
        self._connections.remove(self)
        if self._job is not None:
            self._gateway.cancel(self._job)
        if self._task is not None:
            self._task.cancel()
        for message in self._messages:
            self._uncount(message)
            if message.stream is not None:
                message.stream.fail(TruncatedBodyError())
        self._messages.clear()
        self._closing = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and update the deadline."""
        if self._closing:
            return
        previous = self._state
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self._refuse_malformed(error)
            return
        state = self._state
        if state == HEAD:
            if previous == HEAD:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse_bytes(HEAD_TOO_LONG, 431)
            else:
                self._head_bytes = 0
                self.deadline = self.loop.time() + HEAD_SECONDS
        elif state == BODY:
            message = self._incoming
            if previous != BODY or (message is not None and message.stream is not None):
                self.deadline = self.loop.time() + self._body_seconds
            if previous != BODY or self._has_content:
                self._head_bytes = 0
            else:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES and message and message.error is None:
                    self._abort_body(message, ClientError(TRAILERS_TOO_LONG, 431))
            self._has_content = False
        elif previous != IDLE:
            self.deadline = NEVER

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer complete requests; respond to an incomplete one with an error if possible."""
        self._half_closed = True
        message = self._incoming
        if message is not None and not self._closing and message.error is None:
            message.keep_alive = False
            self._abort_body(message, TruncatedBodyError())
        if self._messages:
            self._messages[-1].keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        """Count the connection as stalled."""
        super().pause_writing()
        self._connections.stall(self)

    def resume_writing(self) -> None:
        """Continue when responses have been read."""
        super().resume_writing()
        self._connections.resume(self)
        if self._is_unread:
            self._is_unread = False
            self._finish()

    def shutdown(self) -> None:
        """Close the connection after the next response, or soon if it is idle."""
        self._stopping = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        if self._state == IDLE and not self._messages:
            self.deadline = self.loop.time() + STOPPING_SECONDS

    def expire(self) -> None:
        """Close the connection or refuse the request that missed its deadline."""
        self.deadline = NEVER
        message = self._incoming
        if self._closing or (self._state == IDLE and not self._messages):
            self._close()
        elif self._state == HEAD and not self._messages:
            self._refuse_bytes(
                f"the head did not arrive in time; expected it within {HEAD_SECONDS:g} s", 408
            )
        elif message is not None:
            self._abort_body(message, too_late(self._body_seconds))

    # The parser.

    def on_message_begin(self) -> None:
        """Start a request."""
        self.url = b""
        self.headers = []
        self._state = HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers are not used."""
        if self._state == HEAD:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Route a request, and check it before its body is read."""
        if self._closing:
            return
        parser, head = self.parser, self._last_head
        method, version = parser.get_method(), parser.get_http_version()
        # Most requests on a connection have the same head.
        if (
            head.raw != self.headers
            or head.url != self.url
            or head.method != method
            or head.version != version
        ):
            head = self._last_head = read_head(
                self.headers, self.url, method, version, self._gateway
            )
        request = HttpRequest(head.method_name, *head.path_and_query, head.headers)
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        message = RequestMessage(request, head, keep_alive and not self._half_closed)
        self._incoming = message
        self._messages.append(message)
        self._state = BODY
        gateway, route = self._gateway, head.route
        message.route = route
        try:
            if head.error is not None:
                raise ClientError(head.error.message, head.error.status)
            message.caller = gateway.admit(request, route)
        except ClientError as error:
            self._refuse(message, error)
            return
        message.counted = True
        gateway.metrics.in_flight += 1
        if head.expects_100:
            self.transport.write(_CONTINUE)
        if head.is_streamed:
            message.stream = BodyStream(self.flow, self._max_table)
            self._advance()

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        self._has_content = True
        message = self._incoming
        if message is None or self._closing or message.error is not None:
            return
        if message.stream is not None:
            message.stream.feed(body)
            return
        message.chunks.append(body)
        message.size += len(body)
        if message.size > self._max_body:
            self._refuse(message, too_large(self._max_body))

    def on_message_complete(self) -> None:
        """Answer the request if no earlier one is pending."""
        message = self._incoming
        self._state = IDLE
        self._incoming = None
        if message is None or self._closing:
            return
        message.complete = True
        if message.stream is not None:
            message.stream.end()
        elif message.error is None:
            chunks = message.chunks
            message.request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._advance()
        if len(self._messages) > 1:
            # Pipelined requests wait in the kernel, not here.
            self.flow.pause_reading()

    # Errors.

    def _abort_body(self, message: RequestMessage, error: ClientError) -> None:
        """Respond with an error to a request whose body cannot be completed."""
        if message.stream is not None:
            message.stream.fail(error)
        else:
            self._refuse(message, error)

    def _refuse(self, message: RequestMessage, error: ClientError) -> None:
        """Answer a request with an error after the earlier ones, and stop reading."""
        message.error = error
        message.keep_alive = False
        message.chunks.clear()
        if self._messages and message is self._messages[0]:
            self._advance()

    def _refuse_malformed(self, error: httptools.HttpParserError) -> None:
        """Respond to bytes that are not HTTP."""
        message = self._incoming
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            error.__context__, (httptools.HttpParserError, UnicodeDecodeError)
        ):
            self.logger.error("a callback of the HTTP parser failed", exc_info=error)
        if message is not None:
            if message.stream is not None:
                message.keep_alive = False
                message.stream.fail(TruncatedBodyError())
            elif message.error is None:
                self._refuse(message, TruncatedBodyError())
            return
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            self._refuse_bytes("unknown method", 501)
        else:
            self._refuse_bytes("the request is not HTTP/1.1")

    def _refuse_bytes(self, text: str, status: int = 400) -> None:
        """Respond with an error to bytes that did not form a request."""
        message = RequestMessage(HttpRequest("?", "?"), NO_HEAD, keep_alive=False)
        self._messages.append(message)
        self._state = IDLE
        self._refuse(message, ClientError(text, status))

    # Implemented by the answering half.

    @abstractmethod
    def _advance(self) -> None:
        """Answer the next request."""

    @abstractmethod
    def _finish(self) -> None:
        """Continue after a response."""

    @abstractmethod
    def _close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def _uncount(self, message: RequestMessage) -> None:
        """Stop counting a request as in flight."""
