"""Share one fit between several processes, on one machine or several.

Each worker reads its share of the rows and computes its share of every sum; the sums travel
through the collectives of `tf.distribute.MultiWorkerMirroredStrategy`, which finds the other
workers through the environment variable TF_CONFIG. All workers then hold the same sums, so they
take the same steps; the first one evaluates and publishes.
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

# Time for which the workers wait for each other.
JOIN_SECONDS = 120.0
CONNECT_SECONDS = 2.0
NODE_NAME = re.compile(r"\{\{.*?\}\} ?")


class Workers:
    """A single worker; also the base class for several workers."""

    index = 0
    count = 1

    def sum(self, values: Floats) -> Floats:
        """Return the sum over all workers of arrays of one shape.

        Raises:
            WorkersError: another worker has ended.
        """
        return values

    def barrier(self) -> None:
        """Wait for the others, unless one of them has ended."""
        with suppress(WorkersError):
            self.sum(np.zeros(1))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes of all workers, in their order.

        Raises:
            WorkersError: another worker has ended.
        """
        return [data]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, which must be JSON."""
        return [json.loads(data) for data in self.gather_bytes(json.dumps(value).encode())]

    def concatenate(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the rows of all workers, one after the other."""
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

        config = os.environ["TF_CONFIG"]
        try:
            known = json.loads(config)
            self.index = int(known["task"]["index"])
            addresses = [str(address) for address in known["cluster"]["worker"]]
            self.count = len(addresses)
            ports = [int(address.rpartition(":")[2]) for address in addresses]
            is_listed = self.index in range(self.count)
            # TensorFlow's other tasks compute, too: a chief is a replica.
            if {*known["cluster"], known["task"]["type"]} != {"worker"} or not is_listed:
                raise ValueError
            if not all(0 < port < 2**16 for port in ports):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise WorkersError(
                f"TF_CONFIG: expected only workers at HOST:PORT and one's task, got {config!r}"
            ) from error
        wait_for_workers(addresses, self.index, timeout)
        # Without timeout_seconds, for which each collective would have a sleeping thread. The
        # strategy itself checks every half minute that all workers are alive.
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
        """Return the sum over all workers of arrays of one shape."""
        return np.asarray(self._collective(self._sum, values))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes of all workers, in their order."""
        lengths = np.zeros(self.count)
        lengths[self.index] = len(data)
        sizes = self.sum(lengths).astype(int).tolist()
        words = np.frombuffer(data.ljust(_padded(len(data)), b"\0"), np.int32)
        together = self._collective(self._gather, words).tobytes()
        starts = np.cumsum([0, *(_padded(size) for size in sizes)]).tolist()
        return [together[s : s + size] for s, size in zip(starts, sizes, strict=False)]

    def _collective(self, operation: Callable[[Any], Any], values: npt.NDArray[Any]) -> Any:
        try:
            return operation(values).numpy()
        except self._errors as error:
            # The other lines and the node's name are for TensorFlow's developers.
            reason = NODE_NAME.sub("", str(error)).partition("\n")[0]
            raise WorkersError(f"another worker is gone: {reason}") from error


def _padded(length: int) -> int:
    """Return the length rounded up to 32-bit words, which the collectives require."""
    return -(-length // 4) * 4


def cluster_config(addresses: list[str], index: int) -> str:
    """Return the TF_CONFIG of one worker."""
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def wait_for_workers(addresses: list[str], index: int, timeout: float) -> None:
    """Wait until every worker listens at its address, `host:port`.

    TensorFlow's own servers, which listen there next, wait for a missing worker for an hour.

    Raises:
        WorkersError: a worker does not arrive in time, or this worker's port is taken.
    """
    deadline = time.monotonic() + timeout
    port = int(addresses[index].rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise WorkersError(f"worker {index} cannot listen at port {port}: {error}") from error
    with listener:
        for other, address in enumerate(addresses):
            while other != index and not _listens(address):
                if time.monotonic() > deadline:
                    raise WorkersError(
                        f"worker {other} at {address} did not arrive within {timeout:g} s"
                    )
                time.sleep(0.2)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return True
    except (OSError, UnicodeError):
        return False


def meet(host: str, port: int, count: int, timeout: float = JOIN_SECONDS) -> str:
    """Wait until a name resolves to all workers' machines, and return this worker's TF_CONFIG.

    It is the name of a scaled Compose service or a headless Kubernetes service, for example.

    Raises:
        WorkersError: not all workers appear in time, or this machine is not among them.
    """
    deadline = time.monotonic() + timeout
    found: list[str] = []
    while len(found) != count:
        if time.monotonic() > deadline:
            raise WorkersError(
                f"{host} resolves to {len(found)} instead of {count} addresses after {timeout:g} s"
            )
        try:
            infos = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
            found = sorted({str(info[4][0]) for info in infos})
        except (socket.gaierror, UnicodeError):
            found = []
        time.sleep(0.2)
    for index, address in enumerate(found):
        if _is_ours(address):
            return cluster_config([f"{a}:{port}" for a in found], index)
    raise WorkersError(f"none of {', '.join(found)}, to which {host} resolves, is this machine")


def _is_ours(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True
