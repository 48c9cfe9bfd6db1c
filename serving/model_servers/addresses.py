"""Addresses to listen on."""

from __future__ import annotations

import socket


class AddressError(OSError):
    """The server cannot listen on an address."""


def host_and_port(address: str, port: int) -> str:
    """Return `address:port`, with an IPv6 address in brackets as in URLs."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def bind_socket(address: str, port: int) -> socket.socket:
    """Return a TCP socket that is bound but does not listen.

    Raises:
        AddressError: the address cannot be bound.
    """
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(sockaddr)
        except OSError:
            listener.close()
            raise
    except UnicodeError as error:
        raise AddressError(
            f"cannot listen on {host_and_port(address, port)}: a label is empty or too long"
        ) from error
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host_and_port(address, port)}: {error.strerror}"
        ) from error
    return listener
