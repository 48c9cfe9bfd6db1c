"""uvicorn's HTTP/1.1 protocol, with a fast path for API requests.

An API request is handed to the gateway when its message is complete, and its response is written to
the connection, without a task or ASGI messages. A task answers tables and feedback while they
arrive. Everything else goes to the ASGI application, as in uvicorn's own protocol.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, unquote

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from client.http.endpoints.tables import StreamResponse
from client.http.heads import RequestMessage, response_head
from client.http.messages import HttpResponse
from client.http.receiving import (
    HEAD,
    HEAD_SECONDS,
    IDLE,
    KEEP_ALIVE_SECONDS,
    NEVER,
    STOPPING_SECONDS,
    ReceivingProtocol,
)
from client.http.request_body import inflate

# After an early response, keep reading for this long, so that the connection is not reset before
# the caller has read the response.
LINGER_SECONDS = 1.0

_SAFE_QUERY_CHARACTERS = "!$%&'()*+,/:;=?@[]~"


class ApiProtocol(ReceivingProtocol):
    """One connection, whose requests are answered in order."""

    def _advance(self) -> None:
        """Answer the next request."""
        message = self._messages[0]
        if message.started:
            return
        if message.error is not None:
            message.started = True
            self._send(
                self._gateway.responder.refuse(message.request, message.route, message.error)
            )
        elif message.stream is not None:
            message.started = True
            self._task = self.loop.create_task(self._stream(message))
        elif not message.complete:
            return
        elif message.route is None:
            message.started = True
            self._run_application(message)
        else:
            message.started = True
            job = self._gateway.submit(
                message.request, message.route, message.caller, self._respond
            )
            if not job.done:
                self._job = job

    def _respond(self, response: HttpResponse) -> None:
        self._job = None
        self._send(response)

    def _send(self, response: HttpResponse) -> None:
        """Write a response."""
        message = self._messages[0]
        is_last = self._stopping and len(self._messages) == 1 and self._state == IDLE
        keep_alive = message.keep_alive and message.complete and not is_last
        message.keep_alive = keep_alive
        defaults = self.server_state.default_headers
        head = response_head(response.status, response.content_type, response.headers, keep_alive)
        date = b"date: %b\r\n" % defaults[0][1] if defaults else b""
        body = b"" if message.request.method == "HEAD" else response.body
        length = b"content-length: %d\r\n\r\n" % len(response.body)
        if response.prediction_id is not None:
            length = b"x-prediction-id: %b\r\n%b" % (response.prediction_id.encode(), length)
        self.transport.write(b"".join((head, date, length, body)))
        if self.flow.write_paused:
            self._is_unread = True
        else:
            self._finish()

    async def _stream(self, message: RequestMessage) -> None:
        """Answer a table or feedback as it arrives."""
        assert message.stream is not None
        assert message.route is not None
        request = message.request
        encoding = request.headers.get("content-encoding")
        chunks = inflate(message.stream.pieces(), encoding, self._max_table)
        response = await self._gateway.tables.stream(request, message.route, message.caller, chunks)
        if isinstance(response, HttpResponse):
            self._task = None
            self._send(response)
            return
        await self._write_pieces(message, response)
        self._task = None
        self._finish()

    async def _write_pieces(self, message: RequestMessage, response: StreamResponse) -> None:
        chunked = self.parser.get_http_version() != "1.0"
        message.keep_alive = message.keep_alive and chunked and not self._stopping
        head = response_head(200, response.content_type, response.headers, message.keep_alive)
        defaults = self.server_state.default_headers
        date = b"date: %b\r\n" % defaults[0][1] if defaults else b""
        framing = b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n"
        self.transport.write(b"".join((head, date, framing)))
        try:
            async for piece in response.pieces:
                if piece:
                    framed = (b"%x\r\n" % len(piece), piece, b"\r\n") if chunked else (piece,)
                    self.transport.write(b"".join(framed))
                    if self.flow.write_paused:
                        await self.flow.drain()
        except Exception as error:
            # In HTTP/1.1 only a closed connection can signal that a response is incomplete.
            self._gateway.responder.error(message.request, error)
            self.transport.abort()
            return
        if chunked:
            self.transport.write(b"0\r\n\r\n")

    def _finish(self) -> None:
        """Continue with the next request, or close the connection."""
        if not self._messages:
            return
        message = self._messages.popleft()
        self._uncount(message)
        self.server_state.total_requests += 1
        if not message.keep_alive:
            self._close_gracefully(message)
            return
        if self._messages:
            self._advance()
        elif self._state == IDLE:
            seconds = STOPPING_SECONDS if self._stopping else KEEP_ALIVE_SECONDS
            self.deadline = self.loop.time() + seconds
        elif self._state == HEAD:
            self.deadline = self.loop.time() + HEAD_SECONDS
        if len(self._messages) <= 1:
            self.flow.resume_reading()

    def _uncount(self, message: RequestMessage) -> None:
        if message.counted:
            message.counted = False
            self._gateway.metrics.in_flight -= 1

    def _close_gracefully(self, message: RequestMessage) -> None:
        """Close the connection once the caller has had time to read the response."""
        self._closing = True
        for other in self._messages:
            self._uncount(other)
        self._messages.clear()
        if message.complete or self._half_closed or self.transport.is_closing():
            self._close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.deadline = self.loop.time() + LINGER_SECONDS

    def _close(self) -> None:
        self._closing = True
        self.deadline = NEVER
        self.transport.close()

    # The ASGI application.

    def _run_application(self, message: RequestMessage) -> None:
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
            "query_string": quote(request.query, safe=_SAFE_QUERY_CHARACTERS).encode("ascii"),
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
        if self._messages:
            self._messages[0].keep_alive = self.cycle.keep_alive
        self._finish()
