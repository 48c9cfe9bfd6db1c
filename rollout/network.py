"""Plain HTTP requests to every address behind a name."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import TypeVar
from urllib.parse import urlsplit

from rollout.errors import RolloutError

TIMEOUT_SECONDS = 3.0
MAX_BYTES = 64 * 2**20
_THREADS = 16

T = TypeVar("T")


class UnreachableError(Exception):
    """An address does not answer; the message is the reason."""


def resolved(urls: Sequence[str]) -> list[str]:
    """Return the distinct ip:port addresses that the URLs' names resolve to, in order.

    A name that does not resolve is returned as it is, so that it is reported as unreachable.

    Raises:
        RolloutError: a URL is not http://host:port.
    """
    addresses: dict[str, None] = {}
    for url in urls:
        host, port = _host_and_port(url)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            addresses[_joined(host, port)] = None
            continue
        addresses.update((_joined(str(each[4][0]), port), None) for each in found)
    return list(addresses)


def of_each(addresses: Sequence[str], ask: Callable[[str], T]) -> dict[str, T]:
    """Call a function for all addresses at once, and return its results by address."""
    if not addresses:
        return {}
    with ThreadPoolExecutor(min(_THREADS, len(addresses))) as pool:
        return dict(zip(addresses, pool.map(ask, addresses), strict=True))


def get(address: str, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET request to ip:port.

    Raises:
        UnreachableError: there is no complete response in time.
    """
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(MAX_BYTES + 1)
        if response.length or len(body) > MAX_BYTES:
            raise UnreachableError(f"sent {len(body)} bytes of a longer response")
        return response.status, body
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(f"does not answer ({reason})") from error
    finally:
        connection.close()


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise RolloutError(f"expected http://host:port, got {url!r}")
    return parts.hostname, port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
