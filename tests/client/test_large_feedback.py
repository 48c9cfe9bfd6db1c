from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.conftest import Starter
from tests.support.processes import Running

# The ids are so long that all rows take 34 MB, more than the process may grow by.
ROWS, ID_DIGITS = 250_000, 128


def test_large_feedback_is_received_in_little_memory(
    model_server: str, starter: Starter, tmp_path: Path
) -> None:
    client = starter.client(model_server, CLIENT_LOG=str(tmp_path / "log"))
    send_csv(client, 1000)
    before = worker_megabytes(client)
    assert send_csv(client, ROWS) == b"202"
    assert worker_megabytes(client) - before < 30
    assert client.stop() == 0
    (first, *others) = sorted((tmp_path / "log" / "feedback").glob("*.ndjson"))
    lines = sum(file.read_bytes().count(b"\n") for file in (first, *others))
    assert lines == 1000 + ROWS


def send_csv(client: Running, rows: int) -> bytes:
    """Send labels in chunks and return the response's status."""
    url = urlsplit(client.address)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=60) as connection:
        head = "POST /feedback HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"id,label\n"
        for start in range(0, rows, 1000):
            chunk += b"".join(b"%0*d,benign\n" % (ID_DIGITS, i) for i in range(start, start + 1000))
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            chunk = b""
        connection.sendall(b"0\r\n\r\n")
        return connection.recv(100).split(b" ")[1]


def worker_megabytes(client: Running) -> float:
    """Return the resident size of the client's largest process."""
    pids = [client.process.pid, *(c.pid for c in psutil.Process(client.process.pid).children())]
    return max(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20
