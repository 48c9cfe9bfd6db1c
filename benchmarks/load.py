"""Loads an HTTP server with one request, again and again over a number of connections.

The load comes from wrk where there is one, else from asyncio, which takes more of the CPU that the
server could have had.
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
# Timeout of a request.
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Request:
    """A POST request; the body is in a file."""

    url: str
    content_type: str
    body: Path


@dataclass(frozen=True)
class Load:
    """The result of a load.

    Attributes:
        requests: that were answered, errors too.
        seconds: that it took.
        p50, p99: seconds in which half and 99 in 100 of them were answered.
        errors: replies that are not 2xx or 3xx, and connections that broke.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return max(0, self.requests - self.errors) / self.seconds

    @classmethod
    def of(cls, took: list[float], seconds: float, errors: int) -> Load:
        """Return it for requests that took so many seconds each."""
        p50, p99 = np.percentile(took, [50, 99]) if took else (0.0, 0.0)
        return cls(len(took), seconds, float(p50), float(p99), errors)


def generator() -> str:
    """Return the name of the load generator."""
    return "wrk, one thread" if shutil.which("wrk") else "asyncio (wrk is not installed)"


def ask(request: Request) -> tuple[int, bytes]:
    """Send a request once, and return status and body of the reply.

    Raises:
        OSError, HTTPException: nothing that is a reply came back.
    """
    url = urlsplit(request.url)
    with closing(HTTPConnection(url.netloc, timeout=TIMEOUT_SECONDS)) as connection:
        headers = {"Content-Type": request.content_type}
        connection.request("POST", url.path, request.body.read_bytes(), headers)
        reply = connection.getresponse()
        return reply.status, reply.read()


def load(request: Request, connections: int, seconds: int) -> Load:
    """Send a request over several connections, on each as soon as the previous one is answered."""
    if shutil.which("wrk") is None:
        return asyncio.run(_load(request, connections, seconds))
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", f"--script={SCRIPT}", request.url]
    command += ["--", str(request.body), request.content_type]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.splitlines()[-1]))


async def _load(request: Request, connections: int, seconds: int) -> Load:
    url, body = urlsplit(request.url), request.body.read_bytes()
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n"
    message = f"{head}Content-Type: {request.content_type}\r\n\r\n".encode() + body
    took: list[float] = []
    errors = 0
    started = time.perf_counter()

    async def send_again_and_again() -> None:
        nonlocal errors
        writer: asyncio.StreamWriter | None = None
        while (before := time.perf_counter()) < started + seconds:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(url.hostname, url.port)
                writer.write(message)
                status, stays = await asyncio.wait_for(_reply(reader), TIMEOUT_SECONDS)
                took.append(time.perf_counter() - before)
                errors += status >= 400
            except (OSError, EOFError, ValueError, asyncio.TimeoutError):
                errors += 1
                stays = False
            if not stays and writer is not None:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(send_again_and_again() for _ in range(connections)))
    return Load.of(took, time.perf_counter() - started, errors)


async def _reply(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read a reply, and return its status and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(fields.get("content-length", 0)))
    return int(head.split(" ", 2)[1]), fields.get("connection") != "close"
