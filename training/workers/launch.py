"""Start and join the workers of one fit: on this machine, by name, or by TF_CONFIG."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from training.workers.collectives import (
    JOIN_SECONDS,
    TensorFlowWorkers,
    Workers,
    cluster_config,
    meet,
)

STOP_SECONDS = 10


@contextmanager
def join_workers(
    count: int, rendezvous: tuple[str, int] | None, timeout: float = JOIN_SECONDS
) -> Iterator[Workers]:
    """Join the workers; those started here get `STOP_SECONDS` to end, and are then killed.

    Args:
        count: number of workers.
        rendezvous: a name that resolves to the addresses of all of them, and their port. Without
            it and without TF_CONFIG, the others are started here with the same command line.
        timeout: seconds to wait for all of them.

    Raises:
        WorkersError: the workers do not find each other.
    """
    others: list[subprocess.Popen[bytes]] = []
    if "TF_CONFIG" not in os.environ and count > 1:
        if rendezvous is not None:
            os.environ["TF_CONFIG"] = meet(*rendezvous, count, timeout)
        else:
            addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
            os.environ["TF_CONFIG"] = cluster_config(addresses, 0)
            others = [_start(cluster_config(addresses, i)) for i in range(1, count)]
    try:
        if "TF_CONFIG" not in os.environ:
            yield Workers()
        else:
            yield TensorFlowWorkers(timeout)
        for other in others:
            with suppress(subprocess.TimeoutExpired):  # then it is killed
                other.wait(STOP_SECONDS)
    finally:
        for other in others:
            other.kill()
            other.wait()


def _start(config: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", *sys.argv[1:]],
        env={**os.environ, "TF_CONFIG": config},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [s.getsockname()[1] for s in sockets]
    for opened in sockets:
        opened.close()
    return ports
