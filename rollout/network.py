"""Plain HTTP requests to every address of a name."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rollout.errors import RolloutError

TIMEOUT_SECONDS = 3.0
MAX_BYTES = 64 * 2**20
_MAX_THREADS = 16

T = TypeVar("T")


class UnreachableError(Exception):
    """An address does not answer; the message is the reason."""


def resolve_addresses(urls: Sequence[str]) -> list[str]:
    """Return the distinct ip:port addresses that the URLs' names resolve to, in order.

    A name with IPv4 addresses yields only those, so that a process with an address of each family
    counts once. A name that does not resolve is kept, so that it is reported as unreachable.

    Raises:
        RolloutError: a URL is not http://host:port.
    """
    addresses: dict[str, None] = {}
    for url in urls:
        host, port = host_and_port(url)
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            addresses[_join(host, port)] = None
            continue
        ipv4 = [info for info in infos if info[0] == socket.AF_INET]
        addresses.update((_join(str(info[4][0]), port), None) for info in ipv4 or infos)
    return list(addresses)


def call_each(addresses: Sequence[str], function: Callable[[str], T]) -> dict[str, T]:
    """Call a function for all addresses concurrently, and return its results by address."""
    if not addresses:
        return {}
    with ThreadPoolExecutor(min(_MAX_THREADS, len(addresses))) as pool:
        return dict(zip(addresses, pool.map(function, addresses), strict=True))


def get(address: str, path: str) -> tuple[int, bytes]:
    """Send a GET request to ip:port; return the status and body of the response.

    Raises:
        UnreachableError: no complete response arrives in time.
    """
    name, _, digits = address.rpartition(":")
    host, port = name.strip("[]"), int(digits)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(HTTPConnection(host, port)) as connection, _DeadlineSocket(family) as sock:
            sock.connect((host, port))
            connection.sock = sock
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(MAX_BYTES + 1)
            if response.length or len(body) > MAX_BYTES:
                raise UnreachableError(f"sent {len(body)} bytes of a longer response")
            return response.status, body
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(f"does not answer ({reason})") from error


def host_and_port(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL.

    Raises:
        RolloutError: the URL is not http://host:port.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
        if parts.scheme != "http" or not host or port is None:
            raise ValueError
        host.encode("idna")  # as `getaddrinfo` does
        HTTPConnection(host, port)  # rejects spaces
    except (ValueError, HTTPException) as error:
        raise RolloutError(f"expected http://host:port, got {url!r}") from error
    return host, port


class _DeadlineSocket(socket.socket):
    """A socket with one deadline for everything it receives."""

    def __init__(self, family: socket.AddressFamily) -> None:
        super().__init__(family)
        self._deadline = time.monotonic() + TIMEOUT_SECONDS
        self.settimeout(TIMEOUT_SECONDS)

    def recv_into(self, *arguments: Any) -> int:
        """Receive bytes, or raise TimeoutError after the deadline."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self.settimeout(remaining)
        return super().recv_into(*arguments)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
