"""Name resolution under a test's control, in this process or by a name server."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

_A, _IN = 1, 1
_FLAGS = 0x8580  # a response, authoritative, recursion desired and available


def resolve(monkeypatch: pytest.MonkeyPatch, hosts: Mapping[str, Sequence[str]]) -> None:
    """Make this process resolve host names to these IP addresses, in this order.

    Resolving a name without an address fails.
    """

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        if not hosts[host]:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        infos = []
        for ip in hosts[host]:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            infos.append((family, socket.SOCK_STREAM, 0, "", (ip, port)))
        return infos

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


class NameServer:
    """Answers every DNS query for IPv4 addresses over UDP, on a port of its own.

    Attributes:
        addresses: the addresses of every name.
        target: prefix of a gRPC target whose name is resolved here.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.target = f"dns://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            query, caller = self._socket.recvfrom(512)
            if not query:
                return
            self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        kind = int.from_bytes(question[-4:-2], "big")
        ips = self.addresses if kind == _A else ()
        header = struct.pack(">6H", int.from_bytes(query[:2], "big"), _FLAGS, 1, len(ips), 0, 0)
        # A name is a pointer to the question's; the TTL is 0, which forbids caching.
        records = (
            struct.pack(">HHHIH", 0xC00C, _A, _IN, 0, 4) + socket.inet_aton(ip) for ip in ips
        )
        return header + question + b"".join(records)
