"""One fit spread over several processes, on one machine or several.

Each worker reads its share of the rows and computes its share of every sum; the sums travel
through the collectives of `tf.distribute.MultiWorkerMirroredStrategy`, which finds the other
workers through the environment variable TF_CONFIG. As all workers then hold the same sums, all
take the same steps, and the first one evaluates and publishes.
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

RENDEZVOUS_SECONDS = 120
NODE_NAME = re.compile(r"\{\{.*?\}\} ?")


class Workers:
    """The only worker there is."""

    index = 0
    count = 1

    def sum(self, values: Floats) -> Floats:
        """Add up what each worker passes, arrays of one shape; all get the result.

        Raises:
            WorkersError: another worker is gone.
        """
        return values

    def barrier(self) -> None:
        """Wait for the others; it does not matter if one of them is gone."""
        with suppress(WorkersError):
            self.sum(np.zeros(1))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return what each worker passes, in the order of the workers.

        Raises:
            WorkersError: another worker is gone.
        """
        return [data]

    def gather(self, value: Any) -> list[Any]:
        """Return what each worker passes, which must be JSON."""
        return [json.loads(data) for data in self.gather_bytes(json.dumps(value).encode())]

    def concatenate(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the rows that each worker passes, one after the other."""
        file = io.BytesIO()
        np.save(file, values, allow_pickle=False)
        gathered = self.gather_bytes(file.getvalue())
        return np.concatenate([np.load(io.BytesIO(data)) for data in gathered])


class TensorFlowWorkers(Workers):
    """The workers that TF_CONFIG lists; the constructor waits until all are there."""

    def __init__(self) -> None:
        import tensorflow as tf

        config = os.environ["TF_CONFIG"]
        try:
            known = json.loads(config)
            self.index = int(known["task"]["index"])
            self.count = len(known["cluster"]["worker"])
        except (KeyError, TypeError, ValueError) as error:
            raise WorkersError(
                f"TF_CONFIG: expected a cluster of workers and a task, got {config!r}"
            ) from error
        # Without timeout_seconds: for each collective a thread would sleep as long. The strategy
        # itself looks every half a minute whether all workers are there.
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
        """Add up what each worker passes, arrays of one shape; all get the result."""
        return np.asarray(self._collective(self._sum, values))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return what each worker passes, in the order of the workers."""
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
            # The other lines are for TensorFlow's developers, as is the node's name.
            reason = NODE_NAME.sub("", str(error)).partition("\n")[0]
            raise WorkersError(f"another worker is gone: {reason}") from error


def _padded(length: int) -> int:
    """Return the length in whole words of 32 bits, which the collectives can carry."""
    return -(-length // 4) * 4


def cluster_config(addresses: list[str], index: int) -> str:
    """Return what TF_CONFIG of one worker is to be."""
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def meet(host: str, port: int, count: int) -> str:
    """Return TF_CONFIG for the worker on this machine.

    Args:
        host: a name that resolves to the addresses of all workers' machines, as that of a scaled
            compose service or a headless Kubernetes service does.
        port: on which each worker listens.
        count: how many workers there are to be.

    Raises:
        WorkersError: so many are not there in time, or this machine is not among them.
    """
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    found: list[str] = []
    while len(found) != count:
        if time.monotonic() > deadline:
            raise WorkersError(
                f"{host} resolves to {len(found)} addresses after {RENDEZVOUS_SECONDS} s, "
                f"expected {count}"
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
