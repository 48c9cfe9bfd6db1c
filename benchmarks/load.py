"""Load an HTTP server: one request, repeated over several connections.

wrk generates the load if it is installed; otherwise asyncio does, and leaves the server less CPU.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Request:
    """A POST request; the body is in a file."""

    url: str
    content_type: str
    body: Path


@dataclass(frozen=True)
class LoadResult:
    """The result of a load.

    Attributes:
        requests: number of responses, failed ones included.
        seconds: duration of the load.
        p50, p99: percentiles of the latency, in seconds.
        failed: responses with a status of 400 or more; with wrk, late ones too.
        broken: requests without a response: broken connections, and timeouts of asyncio.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int
    broken: int

    @property
    def errors(self) -> int:
        """Number of failed responses and of requests without a response."""
        return self.failed + self.broken

    @property
    def rate(self) -> float:
        """Successful responses per second."""
        return max(0, self.requests - self.failed) / self.seconds

    @classmethod
    def from_latencies(
        cls, latencies: list[float], seconds: float, failed: int = 0, broken: int = 0
    ) -> LoadResult:
        """Summarize the latencies of all responses, in seconds."""
        p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
        return cls(len(latencies), seconds, float(p50), float(p99), failed, broken)


def generator_name() -> str:
    """Return the name of the load generator."""
    return "wrk, one thread" if shutil.which("wrk") else "asyncio (wrk is not installed)"


def send_once(request: Request) -> tuple[int, bytes]:
    """Send a request once, and return the response's status and body.

    Raises:
        OSError, HTTPException: the server cannot be reached, or its response is malformed.
    """
    url = urlsplit(request.url)
    with closing(HTTPConnection(url.netloc, timeout=TIMEOUT_SECONDS)) as connection:
        headers = {"Content-Type": request.content_type}
        connection.request("POST", url.path, request.body.read_bytes(), headers)
        response = connection.getresponse()
        return response.status, response.read()


def load(request: Request, connections: int, seconds: int) -> LoadResult:
    """Repeat a request on each connection as soon as the previous response has arrived."""
    if shutil.which("wrk") is None:
        return asyncio.run(_load_with_asyncio(request, connections, seconds))
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", f"--script={SCRIPT}", request.url]
    command += ["--", str(request.body), request.content_type]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return LoadResult(**json.loads(process.stdout.splitlines()[-1]))


async def _load_with_asyncio(request: Request, connections: int, seconds: int) -> LoadResult:
    url, body = urlsplit(request.url), request.body.read_bytes()
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n"
    message = f"{head}Content-Type: {request.content_type}\r\n\r\n".encode() + body
    latencies: list[float] = []
    failed = broken = 0
    started = time.perf_counter()

    async def send_repeatedly() -> None:
        nonlocal failed, broken
        writer: asyncio.StreamWriter | None = None
        while (before := time.perf_counter()) < started + seconds:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(url.hostname, url.port)
                writer.write(message)
                status, keep_alive = await asyncio.wait_for(_read_response(reader), TIMEOUT_SECONDS)
                latencies.append(time.perf_counter() - before)
                failed += status >= 400
            except (OSError, EOFError, ValueError, asyncio.TimeoutError):
                broken += 1
                keep_alive = False
            if not keep_alive and writer is not None:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(send_repeatedly() for _ in range(connections)))
    return LoadResult.from_latencies(latencies, time.perf_counter() - started, failed, broken)


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read a response, and return its status and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(fields.get("content-length", 0)))
    return int(head.split(" ", 2)[1]), fields.get("connection") != "close"
