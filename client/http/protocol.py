"""uvicorn's HTTP/1.1 protocol, with a short way for requests to the API.

A request to the API is handed to the gateway when its message is complete, and its response is
written to the connection: no task and no ASGI messages for each request. Everything else goes to
the ASGI application as uvicorn's own protocol does it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from client.errors import ClientError
from client.http.body_stream import BodyStream, CutShortError
from client.http.connections import Connections
from client.http.endpoints.tables import StreamReply, is_table
from client.http.messages import HttpReply, HttpRequest
from client.http.pipeline import ApiJob, Gateway
from client.http.request_body import inflate, too_large, too_late
from client.http.routing import Route

# A request's head must arrive within this time and size.
HEAD_SECONDS = 5.0
MAX_HEAD_BYTES = 128 * 1024
# A connection without a request is kept for so long; longer than load balancers keep theirs.
KEEP_ALIVE_SECONDS = 75.0
# When the service stops, callers that are about to send their next request get an answer.
STOPPING_SECONDS = 1.0
# After an early response, what the caller still sends is read for so long, so that the connection
# is not reset before the caller has read it.
LINGER_SECONDS = 1.0
MAX_URLS, MAX_URL_LENGTH = 1024, 256

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_QUERY = "!$%&'()*+,/:;=?@[]~"
_NEVER = float("inf")
_IDLE, _HEAD, _BODY = 0, 1, 2


class Head:
    """A request's head, and what follows from it for every request that has the same.

    Attributes:
        raw: the headers as sent, names in lower case.
        url: the request target.
        method: of HTTP.
        name: the same as text.
        headers: value by name.
        target: the path as sent, and the query.
        route: what answers it, None if the ASGI application does.
        expects: whether the caller waits for a sign to send the body.
        table: whether the body is read while it is answered.
        error: why it is refused.
    """

    __slots__ = (
        "error",
        "expects",
        "headers",
        "method",
        "name",
        "raw",
        "route",
        "table",
        "target",
        "url",
    )

    def __init__(
        self,
        raw: Sequence[tuple[bytes, bytes]],
        url: bytes,
        method: bytes,
        headers: Mapping[str, str],
        target: tuple[str, str],
    ) -> None:
        self.raw = raw
        self.url = url
        self.method = method
        self.name = method.decode("ascii")
        self.headers = headers
        self.target = target
        self.route: Route | None = None
        self.expects = False
        self.table = False
        self.error: ClientError | None = None


_NO_HEAD = Head((), b"", b"", {}, ("", ""))


class Message:
    """A request that is arriving, waits for its turn, or is being answered.

    Attributes:
        request: the body is set when it is complete.
        head: its head.
        route: what answers it, None if the ASGI application does.
        caller: the name of its API key.
        keep_alive: whether the connection stays open after the response.
        chunks: of the body, if it is kept until it is whole.
        size: bytes of the body so far.
        stream: of a table, takes the body piece by piece.
        complete: whether the whole message has arrived.
        error: why it is refused.
        started: whether it is being answered.
        counted: whether it is counted as in flight.
    """

    __slots__ = (
        "caller",
        "chunks",
        "complete",
        "counted",
        "error",
        "head",
        "keep_alive",
        "request",
        "route",
        "size",
        "started",
        "stream",
    )

    def __init__(self, request: HttpRequest, head: Head, keep_alive: bool) -> None:
        self.request = request
        self.head = head
        self.keep_alive = keep_alive
        self.route: Route | None = None
        self.caller: str | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.stream: BodyStream | None = None
        self.complete = False
        self.error: ClientError | None = None
        self.started = False
        self.counted = False


class ApiProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        deadline: when `late` is to be called.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gateway: Gateway = self.app_state["gateway"]
        self._shared: Connections = self.app_state["connections"]
        settings = self._gateway.settings
        self._max_body, self._max_table = settings.max_body_bytes, settings.max_table_bytes
        self._body_seconds = settings.body_timeout
        self._state = _IDLE
        self._head_bytes = 0
        self._known = _NO_HEAD
        self._arriving: Message | None = None
        self._turns: deque[Message] = deque()
        self._job: ApiJob | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._closing = False
        self._unread = False
        self._half_closed = False
        self.deadline = _NEVER

    # The transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to follow a connection."""
        super().connection_made(transport)
        self._shared.add(self)
        self.deadline = self.loop.time() + KEEP_ALIVE_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop working for a caller that has gone."""
        self._shared.remove(self)
        if self._job is not None:
            self._gateway.cancel(self._job)
        if self._task is not None:
            self._task.cancel()
        for message in self._turns:
            self._uncount(message)
            if message.stream is not None:
                message.stream.fail(CutShortError())
        self._turns.clear()
        self._closing = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives."""
        if self._closing:
            return
        before = self._state
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self._reject(error)
            return
        state = self._state
        if state == _HEAD:
            if before == _HEAD:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse_head(
                        f"the head is too long; expected at most {MAX_HEAD_BYTES} bytes", 431
                    )
            else:
                self._head_bytes = 0
                self.deadline = self.loop.time() + HEAD_SECONDS
        elif state == _BODY:
            arriving = self._arriving
            if before != _BODY or (arriving is not None and arriving.stream is not None):
                self.deadline = self.loop.time() + self._body_seconds
        elif before != _IDLE:
            self.deadline = _NEVER

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what has arrived whole; what is cut short is told, if anybody listens."""
        self._half_closed = True
        message = self._arriving
        if message is not None and not self._closing and message.error is None:
            message.keep_alive = False
            if message.stream is not None:
                message.stream.fail(CutShortError())
            else:
                self._refuse(message, CutShortError())
        if self._turns:
            self._turns[-1].keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        """Count a response that is not being read."""
        super().pause_writing()
        self._shared.stall(self)

    def resume_writing(self) -> None:
        """Go on when a response was read."""
        super().resume_writing()
        self._shared.resume(self)
        if self._unread:
            self._unread = False
            self._finish()

    def shutdown(self) -> None:
        """Close the connection after the next response, or soon if none is wanted."""
        self._stopping = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        if self._state == _IDLE and not self._turns:
            self.deadline = self.loop.time() + STOPPING_SECONDS

    def late(self) -> None:
        """Give up what did not arrive in time."""
        self.deadline = _NEVER
        message = self._arriving
        if self._closing or (self._state == _IDLE and not self._turns):
            self._close()
        elif self._state == _HEAD and not self._turns:
            self._refuse_head(
                f"the head did not arrive in time; expected it within {HEAD_SECONDS:g} s", 408
            )
        elif message is not None and message.stream is not None:
            message.stream.fail(too_late(self._body_seconds))
        elif message is not None:
            self._refuse(message, too_late(self._body_seconds))

    # The parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url = b""
        self.headers = []
        self._state = _HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Route a request, and check whether its body is to be read at all."""
        if self._closing:
            return
        parser, head = self.parser, self._known
        method = parser.get_method()
        # Callers send the same head again and again over a connection.
        if head.raw != self.headers or head.url != self.url or head.method != method:
            head = self._known = self._read_head(method)
        request = HttpRequest(head.name, *head.target, head.headers)
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        message = Message(request, head, keep_alive and not self._half_closed)
        self._arriving = message
        self._turns.append(message)
        self._state = _BODY
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
        if head.expects:
            self.transport.write(_CONTINUE)
        if head.table:
            message.stream = BodyStream(self.flow, self._max_table)
            self._advance()

    def _read_head(self, method: bytes) -> Head:
        """Route a head, and check what does not depend on the moment."""
        raw, url = self.headers, self.url
        headers = _joined(raw)
        target = _split(url) if len(url) <= MAX_URL_LENGTH else _parse(url)
        head = Head(raw, url, method, headers, target)
        route = head.route = self._gateway.route(HttpRequest(head.name, *target, headers))
        head.expects = headers.get("expect", "").lower() == "100-continue"
        head.table = (
            route is not None
            and route.table is not None
            and method == b"POST"
            and is_table(headers)
        )
        hosts = sum(name == b"host" for name, _ in raw)
        limit = self._max_table if head.table else self._max_body
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            head.error = ClientError(f"Host: expected the header once, got it {hosts} times")
        elif int(headers.get("content-length", 0)) > limit:
            head.error = too_large(limit)
        return head

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        message = self._arriving
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
        """Answer a request if it is its turn."""
        message = self._arriving
        self._state = _IDLE
        self._arriving = None
        if message is None or self._closing:
            return
        message.complete = True
        if message.stream is not None:
            message.stream.end()
        elif message.error is None:
            chunks = message.chunks
            message.request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._advance()
        if len(self._turns) > 1:
            # Pipelined requests wait in the kernel, not here.
            self.flow.pause_reading()

    # Responses.

    def _advance(self) -> None:
        """Answer the request whose turn it is."""
        message = self._turns[0]
        if message.started:
            return
        if message.error is not None:
            message.started = True
            self._send(self._gateway.refuse(message.request, message.route, message.error))
        elif message.stream is not None:
            message.started = True
            self._task = self.loop.create_task(self._stream(message))
        elif not message.complete:
            return
        elif message.route is None:
            message.started = True
            self._ask_application(message)
        else:
            message.started = True
            job = self._gateway.submit(
                message.request, message.route, message.caller, self._respond
            )
            if not job.done:
                self._job = job

    def _respond(self, reply: HttpReply) -> None:
        self._job = None
        self._send(reply)

    def _send(self, reply: HttpReply) -> None:
        """Write a response."""
        message = self._turns[0]
        is_last = self._stopping and len(self._turns) == 1 and self._state == _IDLE
        keep_alive = message.keep_alive and message.complete and not is_last
        message.keep_alive = keep_alive
        defaults = self.server_state.default_headers
        head = _head(reply.status, reply.content_type, reply.headers, keep_alive)
        date = b"date: %b\r\n" % defaults[0][1] if defaults else b""
        body = b"" if message.request.method == "HEAD" else reply.body
        length = b"content-length: %d\r\n\r\n" % len(reply.body)
        self.transport.write(b"".join((head, date, length, body)))
        if self.flow.write_paused:
            self._unread = True
        else:
            self._finish()

    async def _stream(self, message: Message) -> None:
        """Answer a table while it arrives."""
        assert message.stream is not None
        assert message.route is not None
        request = message.request
        encoding = request.headers.get("content-encoding")
        chunks = inflate(message.stream.pieces(), encoding, self._max_table)
        reply = await self._gateway.stream(request, message.route, message.caller, chunks)
        if isinstance(reply, HttpReply):
            self._task = None
            self._send(reply)
            return
        await self._write_pieces(message, reply)
        self._task = None
        self._finish()

    async def _write_pieces(self, message: Message, reply: StreamReply) -> None:
        chunked = self.parser.get_http_version() != "1.0"
        message.keep_alive = message.keep_alive and chunked and not self._stopping
        head = _head(200, reply.content_type, reply.headers, message.keep_alive)
        defaults = self.server_state.default_headers
        date = b"date: %b\r\n" % defaults[0][1] if defaults else b""
        framing = b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n"
        self.transport.write(b"".join((head, date, framing)))
        try:
            async for piece in reply.pieces:
                if piece:
                    framed = (b"%x\r\n" % len(piece), piece, b"\r\n") if chunked else (piece,)
                    self.transport.write(b"".join(framed))
                    if self.flow.write_paused:
                        await self.flow.drain()
        except Exception as error:
            # HTTP has no other way to say that a response is not whole.
            self._gateway.error_reply(message.request, message.route, error)
            self.transport.abort()
            return
        if chunked:
            self.transport.write(b"0\r\n\r\n")

    def _finish(self) -> None:
        """Go on after a response: with the next request, or with the end of the connection."""
        if not self._turns:
            return
        message = self._turns.popleft()
        self._uncount(message)
        self.server_state.total_requests += 1
        if not message.keep_alive:
            self._end(message)
            return
        if self._turns:
            self._advance()
        elif self._state == _IDLE:
            seconds = STOPPING_SECONDS if self._stopping else KEEP_ALIVE_SECONDS
            self.deadline = self.loop.time() + seconds
        elif self._state == _HEAD:
            self.deadline = self.loop.time() + HEAD_SECONDS
        if len(self._turns) <= 1:
            self.flow.resume_reading()

    def _uncount(self, message: Message) -> None:
        if message.counted:
            message.counted = False
            self._gateway.metrics.in_flight -= 1

    def _end(self, message: Message) -> None:
        """Close the connection once the caller had a chance to read the response."""
        self._closing = True
        for other in self._turns:
            self._uncount(other)
        self._turns.clear()
        if message.complete or self._half_closed or self.transport.is_closing():
            self._close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.deadline = self.loop.time() + LINGER_SECONDS

    def _close(self) -> None:
        self._closing = True
        self.deadline = _NEVER
        self.transport.close()

    # Errors.

    def _refuse(self, message: Message, error: ClientError) -> None:
        """Answer a request with an error when it is its turn, and read no more."""
        message.error = error
        message.keep_alive = False
        message.chunks.clear()
        if self._turns and message is self._turns[0]:
            self._advance()

    def _refuse_head(self, text: str, status: int) -> None:
        self._refuse_bytes(ClientError(text, status))

    def _reject(self, error: httptools.HttpParserError) -> None:
        """Answer bytes that are no HTTP."""
        message = self._arriving
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            error.__context__, (httptools.HttpParserError, UnicodeDecodeError)
        ):
            self.logger.error("a callback of the HTTP parser failed", exc_info=error)
        if message is not None:
            if message.stream is not None:
                message.keep_alive = False
                message.stream.fail(CutShortError())
            elif message.error is None:
                self._refuse(message, CutShortError())
            return
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            self._refuse_bytes(ClientError("the method is not known", 501))
        else:
            self._refuse_bytes(ClientError("the request is not HTTP/1.1"))

    def _refuse_bytes(self, error: ClientError) -> None:
        """Answer something that did not become a request."""
        message = Message(HttpRequest("?", "?"), _NO_HEAD, keep_alive=False)
        self._turns.append(message)
        self._state = _IDLE
        self._refuse(message, error)

    # The ASGI application.

    def _ask_application(self, message: Message) -> None:
        request = message.request
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": self.parser.get_http_version(),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "method": request.method,
            "path": unquote(request.path),
            "raw_path": request.path.encode("latin-1"),
            "query_string": quote(request.query, safe=_QUERY).encode("ascii"),
            "headers": message.head.raw,
            "state": self.app_state.copy(),
        }
        self.cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=message.keep_alive and not self._stopping,
            on_response=self._finish_application,
        )
        self.cycle.body = bytearray(request.body)
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._start_asgi_task(self.cycle, self.app)

    def _finish_application(self) -> None:
        if self._turns:
            self._turns[0].keep_alive = self.cycle.keep_alive
        self._finish()


def _joined(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name in lower case; the values of repeated ones with commas between."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _parse(url: bytes) -> tuple[str, str]:
    """Return the path as sent and the query of a request target."""
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"/", parsed.query or b""
    return path.decode("latin-1"), query.decode("latin-1")


_split = lru_cache(MAX_URLS)(_parse)


@lru_cache(maxsize=256)
def _head(
    status: int, content_type: str, further: tuple[tuple[str, str], ...], keep_alive: bool
) -> bytes:
    """Return a response's head but for its last lines."""
    lines = [("content-type", content_type), ("x-content-type-options", "nosniff"), *further]
    if not keep_alive:
        lines.append(("connection", "close"))
    text = "".join(f"{name.lower()}: {value}\r\n" for name, value in lines)
    return STATUS_LINE[status] + text.encode("latin-1", "replace")
