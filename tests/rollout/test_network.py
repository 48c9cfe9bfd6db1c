"""Name resolution, and responses that are truncated, too long or too slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from rollout import network
from rollout.network import UnreachableError, get, resolve_addresses
from tests.support.names import resolve

Respond = Callable[..., str]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture
def respond() -> Iterator[Respond]:
    """A function that serves one response and returns the server's address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond(response: bytes, trickled: bytes = b"") -> str:
            def serve() -> None:
                connection, _ = listener.accept()
                with connection, suppress(BrokenPipeError, ConnectionResetError):
                    connection.recv(65536)
                    connection.sendall(response)
                    for byte in trickled:
                        time.sleep(0.05)
                        connection.sendall(bytes([byte]))

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield respond


def test_truncated_response_is_rejected(respond: Respond) -> None:
    address = respond(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 67)
    with pytest.raises(UnreachableError, match="sent 67 bytes of a longer response"):
        get(address, "/metrics")


@pytest.mark.parametrize(
    "head", [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\n"]
)
def test_response_beyond_the_size_limit_is_rejected(
    respond: Respond, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = b"HTTP/1.1 200 OK\r\n" + head + b"x" * 11 + b"\r\n0\r\n\r\n" * head.startswith(b"T")
    assert get(respond(response), "/metrics") == (200, b"x" * 11)
    monkeypatch.setattr(network, "MAX_BYTES", 10)
    with pytest.raises(UnreachableError, match="of a longer response"):
        get(respond(response), "/metrics")


@pytest.mark.parametrize("sent_at_once", [b"", HEAD], ids=["head", "body"])
def test_slow_response_times_out(
    respond: Respond, sent_at_once: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.5)
    trickled = (HEAD + b"x" * 100).removeprefix(sent_at_once)
    with pytest.raises(UnreachableError, match="timed out"):
        get(respond(sent_at_once, trickled), "/metrics")


def test_ipv6_addresses_are_ignored_if_a_host_has_ipv4_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = {"both": ("::1", "10.0.0.1", "10.0.0.2"), "ipv6": ("fd00::1", "fd00::2")}
    resolve(monkeypatch, hosts)
    assert resolve_addresses(["http://both:80/", "http://ipv6:80"]) == [
        "10.0.0.1:80",
        "10.0.0.2:80",
        "[fd00::1]:80",
        "[fd00::2]:80",
    ]
