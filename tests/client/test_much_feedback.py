"""Feedback of any length passes in little memory."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.conftest import Starter
from tests.support.processes import Running

# Long ids, so that fewer rows are more bytes than may stay in memory: 34 MB.
ROWS, ID = 250_000, 128


def test_much_feedback_passes_in_little_memory(
    model_server: str, starter: Starter, tmp_path: Path
) -> None:
    client = starter.client(model_server, CLIENT_LOG=str(tmp_path / "log"))
    send_csv(client, 1000)
    before = worker_megabytes(client)
    assert send_csv(client, ROWS) == b"202"
    assert worker_megabytes(client) - before < 30
    assert client.stop() == 0
    (sealed, *others) = sorted((tmp_path / "log" / "feedback").glob("*.ndjson"))
    lines = sum(file.read_bytes().count(b"\n") for file in (sealed, *others))
    assert lines == 1000 + ROWS


def send_csv(client: Running, rows: int) -> bytes:
    """Send labels in pieces, and return the status."""
    where = urlsplit(client.address)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as caller:
        head = "POST /feedback HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
        caller.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"id,label\n"
        for start in range(0, rows, 1000):
            piece += b"".join(b"%0*d,benign\n" % (ID, i) for i in range(start, start + 1000))
            caller.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            piece = b""
        caller.sendall(b"0\r\n\r\n")
        return caller.recv(100).split(b" ")[1]


def worker_megabytes(client: Running) -> float:
    """Return the resident size of the largest of the client's processes."""
    family = [client.process.pid, *(c.pid for c in psutil.Process(client.process.pid).children())]
    return max(psutil.Process(pid).memory_info().rss for pid in family) / 2**20
