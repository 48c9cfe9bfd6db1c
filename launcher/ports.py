"""TCP ports: check whether one is free, and find alternatives."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

import click

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
MAX_PORTS_TRIED = 100


def check_port(variable: str, host: str, port: int, in_use: Collection[int] = ()) -> None:
    """Raise a ClickException unless a process can listen on a port.

    Args:
        variable: name of the variable of `make run` that sets the port.
        host: address to listen on.
        port: from 1 to 65535.
        in_use: ports that this run already uses.
    """
    if port in in_use:
        suggestion = _suggestion(variable, host, port, in_use)
        raise click.ClickException(f"port {port} is used twice{suggestion}")
    try:
        _try_to_bind(host, port)
    except socket.gaierror as error:
        raise click.ClickException(f"HOST={host} is not an address: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            message = f"HOST={host} is not an address of this machine"
        elif error.errno == errno.EACCES:
            message = f"port {port} needs root: choose {variable}=1024 or higher"
        else:
            suggestion = _suggestion(variable, host, port, in_use)
            message = f"port {port} is taken ({error.strerror}){suggestion}"
        raise click.ClickException(message) from error


def next_free_port(host: str, port: int, in_use: Collection[int] = ()) -> int | None:
    """Return the first free of the `MAX_PORTS_TRIED` ports above `port`, or None."""
    candidates = range(port + 1, min(port + MAX_PORTS_TRIED + 1, 65536))
    return next((p for p in candidates if p not in in_use and _is_free(host, p)), None)


def reachable_address(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return WILDCARDS.get(host, host)


def address(host: str, port: int) -> str:
    """Return host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _suggestion(variable: str, host: str, port: int, in_use: Collection[int]) -> str:
    if candidate := next_free_port(host, port, in_use):
        return f"; choose another: make run {variable}={candidate}"
    return f"; choose another: make run {variable}=NUMBER"


def _is_free(host: str, port: int) -> bool:
    try:
        _try_to_bind(host, port)
    except OSError:
        return False
    return True


def _try_to_bind(host: str, port: int) -> None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "a label is empty or too long") from error
    family, kind, protocol, _, sockaddr = addresses[0]
    with socket.socket(family, kind, protocol) as probe:
        # Like the servers, ignore lingering connections of an earlier run.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(sockaddr)
