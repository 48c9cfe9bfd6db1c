"""TCP ports: checks whether one is free, and alternatives."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

import click

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
PORTS_TRIED = 100


def check_port(variable: str, host: str, port: int, in_use: Collection[int] = ()) -> None:
    """Raise a ClickException unless a process can listen on a port.

    Args:
        variable: name of the variable of `make run` that sets the port.
        host: address to listen on.
        port: from 1 to 65535.
        in_use: other ports of this run.
    """
    if port in in_use:
        way_out = _way_out(variable, host, port, in_use)
        raise click.ClickException(f"port {port} is used twice{way_out}")
    try:
        _listen(host, port)
    except socket.gaierror as error:
        raise click.ClickException(f"HOST={host} is not an address: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            message = f"HOST={host} is not an address of this machine"
        elif error.errno == errno.EACCES:
            message = f"port {port} needs root: choose {variable}=1024 or higher"
        else:
            way_out = _way_out(variable, host, port, in_use)
            message = f"port {port} is taken ({error.strerror}){way_out}"
        raise click.ClickException(message) from error


def next_free_port(host: str, port: int, in_use: Collection[int] = ()) -> int | None:
    """Return the first free port above `port`; None if the next `PORTS_TRIED` are taken."""
    candidates = range(port + 1, min(port + PORTS_TRIED + 1, 65536))
    return next((each for each in candidates if each not in in_use and _is_free(host, each)), None)


def reachable_address(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return WILDCARDS.get(host, host)


def address(host: str, port: int) -> str:
    """Return host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _way_out(variable: str, host: str, port: int, in_use: Collection[int]) -> str:
    if candidate := next_free_port(host, port, in_use):
        return f"; choose another: make run {variable}={candidate}"
    return f"; choose another with {variable}="


def _is_free(host: str, port: int) -> bool:
    try:
        _listen(host, port)
    except OSError:
        return False
    return True


def _listen(host: str, port: int) -> None:
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # Like the servers, ignore lingering connections of an earlier run.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(target)
