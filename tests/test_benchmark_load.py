"""The load generators of the benchmarks."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.load import Request, load
from tests.conftest import skip_or_fail

NUMBERS = count()


class Faulty(BaseHTTPRequestHandler):
    """Breaks a third of the connections, and returns an error to a third of the requests."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        number = next(NUMBERS) % 3
        if number == 0:
            reset_on_close = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
            self.close_connection = True
            return
        self.send_response(200 if number == 1 else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def faulty_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("generator", ["wrk", "asyncio"])
def test_rate_counts_successful_responses_despite_broken_connections(
    faulty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: str
) -> None:
    if generator == "asyncio":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif shutil.which("wrk") is None:
        skip_or_fail("wrk is not installed")
    body = tmp_path / "body"
    body.write_text("{}")
    result = load(Request(faulty_url, "application/json", body), connections=1, seconds=1)
    assert result.requests > 10
    assert result.errors == pytest.approx(result.requests, abs=2)
    assert result.rate * result.seconds == pytest.approx(result.requests / 2, abs=2)
