"""Fits shared by several processes, on one machine or several.

Each worker reads some of the rows and computes partial sums. The collectives of
`tf.distribute.MultiWorkerMirroredStrategy`, which finds the other workers through the environment
variable TF_CONFIG, add them up. All workers then hold the same sums and take the same steps; only
the first one publishes.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import WorkersError
from training.features.columns import Floats

# Default time to wait for the other workers.
JOIN_SECONDS = 120.0
CONNECT_SECONDS = 2.0
NODE_NAME = re.compile(r"\{\{.*?\}\} ?")


class Workers:
    """A single worker; also the base class for several workers."""

    index = 0
    count = 1

    def sum(self, values: Floats) -> Floats:
        """Return the elementwise sum of the workers' arrays, which have the same shape.

        Raises:
            WorkersError: another worker has ended.
        """
        return values

    def barrier(self) -> None:
        """Wait for the other workers, unless one of them has ended."""
        with suppress(WorkersError):
            self.sum(np.zeros(1))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes from all workers, in worker order.

        Raises:
            WorkersError: another worker has ended.
        """
        return [data]

    def gather(self, value: Any) -> list[Any]:
        """Return the values from all workers, which must be JSON, in worker order."""
        return [json.loads(data) for data in self.gather_bytes(json.dumps(value).encode())]

    def concatenate(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the rows from all workers, concatenated in worker order."""
        file = io.BytesIO()
        np.save(file, values, allow_pickle=False)
        gathered = self.gather_bytes(file.getvalue())
        return np.concatenate([np.load(io.BytesIO(data)) for data in gathered])


class TensorFlowWorkers(Workers):
    """The workers that TF_CONFIG lists; the constructor waits for all of them.

    Raises:
        WorkersError: TF_CONFIG is invalid, or a worker does not arrive in time.
    """

    def __init__(self, timeout: float = JOIN_SECONDS) -> None:
        import tensorflow as tf

        text = os.environ["TF_CONFIG"]
        try:
            config = json.loads(text)
            self.index = int(config["task"]["index"])
            addresses = [str(address) for address in config["cluster"]["worker"]]
            self.count = len(addresses)
            ports = [int(address.rpartition(":")[2]) for address in addresses]
            is_listed = self.index in range(self.count)
            # Reject other task types: a chief, for example, would be one more replica.
            if {*config["cluster"], config["task"]["type"]} != {"worker"} or not is_listed:
                raise ValueError
            if not all(0 < port < 2**16 for port in ports):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise WorkersError(
                f"TF_CONFIG: expected only workers at HOST:PORT and the task of one, got {text!r}"
            ) from error
        wait_for_workers(addresses, self.index, timeout)
        # No timeout_seconds: each collective would then occupy a sleeping thread. The strategy
        # itself checks every 30 seconds that all workers are alive.
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=tf.distribute.experimental.CommunicationImplementation.RING,
        )
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        self._errors = (tf.errors.OpError, RuntimeError)
        replica = tf.distribute.get_replica_context
        self._sum = tf.function(
            lambda values: self._strategy.run(
                lambda v: replica().all_reduce("sum", tf.identity(v)), args=(values,)
            ),
            autograph=False,
            reduce_retracing=True,
        )
        self._gather = tf.function(
            lambda values: self._strategy.run(
                lambda v: replica().all_gather(tf.identity(v), axis=0), args=(values,)
            ),
            autograph=False,
            reduce_retracing=True,
        )

    def sum(self, values: Floats) -> Floats:
        """Return the elementwise sum of the workers' arrays, which have the same shape."""
        return np.asarray(self._collective(self._sum, values))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes from all workers, in worker order."""
        lengths = np.zeros(self.count)
        lengths[self.index] = len(data)
        sizes = self.sum(lengths).astype(int).tolist()
        words = np.frombuffer(data.ljust(_padded_length(len(data)), b"\0"), np.int32)
        gathered = self._collective(self._gather, words).tobytes()
        starts = np.cumsum([0, *(_padded_length(size) for size in sizes)]).tolist()
        return [gathered[s : s + size] for s, size in zip(starts, sizes, strict=False)]

    def _collective(self, operation: Callable[[Any], Any], values: npt.NDArray[Any]) -> Any:
        try:
            return operation(values).numpy()
        except self._errors as error:
            # The other lines and the node's name are for TensorFlow's developers.
            reason = NODE_NAME.sub("", str(error)).partition("\n")[0]
            raise WorkersError(f"another worker is gone: {reason}") from error


def _padded_length(length: int) -> int:
    """Return the number of bytes rounded up to 32-bit words, which the collectives require."""
    return -(-length // 4) * 4


def cluster_config(addresses: list[str], index: int) -> str:
    """Return the TF_CONFIG of one worker."""
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def wait_for_workers(addresses: list[str], index: int, timeout: float) -> None:
    """Wait until every worker listens on its address, `host:port`.

    TensorFlow's own servers, which listen there next, would wait an hour for a missing worker.

    Raises:
        WorkersError: a worker does not arrive in time, or this worker's port is taken.
    """
    deadline = time.monotonic() + timeout
    port = int(addresses[index].rpartition(":")[2])
    is_dual_stack = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual_stack else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=is_dual_stack)
    except OSError as error:
        raise WorkersError(f"worker {index} cannot listen on port {port}: {error}") from error
    with listener:
        for other, address in enumerate(addresses):
            while other != index and not _is_listening(address):
                if time.monotonic() > deadline:
                    raise WorkersError(
                        f"worker {other} at {address} did not arrive within {timeout:g} s"
                    )
                time.sleep(0.2)


def _is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return True
    except (OSError, UnicodeError):
        return False


def resolve_cluster_config(host: str, port: int, count: int, timeout: float = JOIN_SECONDS) -> str:
    """Wait until a host name resolves to all workers and return this worker's TF_CONFIG.

    The name may be that of a scaled Compose service or a headless Kubernetes service.

    Raises:
        WorkersError: not all workers appear in time, or this machine is not among them.
    """
    deadline = time.monotonic() + timeout
    addresses: list[str] = []
    while len(addresses) != count:
        if time.monotonic() > deadline:
            raise WorkersError(
                f"{host} resolves to {len(addresses)} instead of {count} addresses "
                f"after {timeout:g} s"
            )
        try:
            infos = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
            addresses = sorted({str(info[4][0]) for info in infos})
        except (socket.gaierror, UnicodeError):
            addresses = []
        time.sleep(0.2)
    for index, address in enumerate(addresses):
        if _is_local(address):
            return cluster_config([f"{a}:{port}" for a in addresses], index)
    raise WorkersError(f"this machine has none of the addresses of {host}: {', '.join(addresses)}")


def _is_local(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True
