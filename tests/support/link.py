"""A network link between a client and a real server that a test can delay and cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Link:
    """Forwards connections from its own port; the server's data can be held back.

    Attributes:
        address: the address to connect to instead of the server's.
        connections: number of connections made.
        is_holding: whether data of the server is being held back.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.is_holding = False
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def hold(self) -> None:
        """Hold back the server's data until `release`."""
        self._flowing.clear()

    def release(self) -> None:
        """Forward everything, including held data."""
        self._flowing.set()

    def cut(self) -> None:
        """Close all connections; new ones may be opened."""
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the link."""
        # Closing a listener does not wake a thread in accept(); shutting it down does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        self.release()  # after the cut, so that held data is not delivered
        for thread in self._threads:
            thread.join()
        for endpoint in (self._listener, *self._sockets):
            endpoint.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self.connections += 1
                self._sockets += [client, server]
                self._start(self._pump, client, server, False)
                self._start(self._pump, server, client, True)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket, can_be_held: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if can_be_held and not self._flowing.is_set():
                    self.is_holding = True
                    self._flowing.wait()
                    self.is_holding = False
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
