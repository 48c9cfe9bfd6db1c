"""Responses that end early or are too long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from rollout import network
from rollout.network import UnreachableError, get

Answer = Callable[[bytes], str]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Answer one request with these bytes, at the address that is returned."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(response: bytes) -> str:
            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(response)

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield answer


def test_a_response_that_ends_early_is_no_response(answer: Answer) -> None:
    address = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 67)
    with pytest.raises(UnreachableError, match="sent 67 bytes of a longer response"):
        get(address, "/metrics")


@pytest.mark.parametrize(
    "head", [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\n"]
)
def test_a_response_beyond_the_limit_is_not_cut(
    answer: Answer, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = b"HTTP/1.1 200 OK\r\n" + head + b"x" * 11 + b"\r\n0\r\n\r\n" * head.startswith(b"T")
    assert get(answer(response), "/metrics") == (200, b"x" * 11)
    monkeypatch.setattr(network, "MAX_BYTES", 10)
    with pytest.raises(UnreachableError, match="of a longer response"):
        get(answer(response), "/metrics")
