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
    resolve_cluster_config,
)

STOP_SECONDS = 10


@contextmanager
def join_workers(
    count: int, rendezvous: tuple[str, int] | None, timeout: float = JOIN_SECONDS
) -> Iterator[Workers]:
    """Join the workers; kill those started here if they do not end within `STOP_SECONDS`.

    Args:
        count: number of workers.
        rendezvous: host name that resolves to the addresses of all of them, and their port. If
            neither it nor TF_CONFIG is set, the others are started here with the same command line.
        timeout: seconds to wait for all of them.

    Raises:
        WorkersError: the workers do not find each other.
    """
    processes: list[subprocess.Popen[bytes]] = []
    if "TF_CONFIG" not in os.environ and count > 1:
        if rendezvous is not None:
            os.environ["TF_CONFIG"] = resolve_cluster_config(*rendezvous, count, timeout)
        else:
            addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
            os.environ["TF_CONFIG"] = cluster_config(addresses, 0)
            processes = [_start(cluster_config(addresses, i)) for i in range(1, count)]
    try:
        if "TF_CONFIG" not in os.environ:
            yield Workers()
        else:
            yield TensorFlowWorkers(timeout)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(config: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", *sys.argv[1:]],
        env={**os.environ, "TF_CONFIG": config},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
