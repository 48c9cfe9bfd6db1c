"""Shadow traffic: copies of calls, sent after their callers have been answered.

Copies must not delay callers: they are sent one at a time, when no other call is in flight or after
a pause that bounds the time they take. They wait in a bounded queue; copies that do not fit are
dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from client.arms.arm_call import LABEL, is_valid
from client.codecs import Codec, Payload
from client.codecs.batches import Call
from client.errors import ClientError
from client.inference.attempts import BatchResult
from client.inference.predictor import Predictor
from client.observability.arm_metrics import ArmMetrics
from client.observability.request_context import REQUESTS
from client.serving import deadlines
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema
from client.serving.tensors import Array

MAX_WAITING_ROWS = 4096
MAX_WAITING_BYTES = 16 * 2**20
# Under constant load, copies take at most this fraction of the time.
MAX_BUSY_FRACTION = 0.01
IDLE_CHECK_SECONDS = 0.002
# Larger requests are decoded in a thread.
LONG_BODY_BYTES = 128 * 1024

# Called with the shadow's prediction for all rows, or with None.
Done = Callable[[Prediction | None], None]


class Copy(NamedTuple):
    """An answered call, to be repeated on the shadow version.

    Attributes:
        target: the shadow version.
        codec: decodes the payloads.
        payloads: the requests, in the order of the batch.
        result: the batch as decoded for the version that answered, and its prediction.
        done: called once with the shadow's prediction, or with None.
    """

    target: Target
    codec: Codec
    payloads: Sequence[Payload]
    result: BatchResult
    done: Done = lambda prediction: None

    @property
    def rows(self) -> int:
        """Number of rows; 1 if they cannot be counted."""
        return self.result.batch.total_rows or 1

    @property
    def size(self) -> int:
        """Size of the requests in bytes."""
        return sum(len(payload.body) for payload in self.payloads)


class Shadow:
    """Sends copies of calls to shadow versions; bound to one event loop."""

    def __init__(self, predictor: Predictor, metrics: ArmMetrics, timeout: float) -> None:
        """Create an empty queue.

        Args:
            predictor: makes the predictions.
            metrics: counts calls and rows.
            timeout: timeout of a call in seconds.
        """
        self._predictor = predictor
        self._metrics = metrics
        self._timeout = timeout
        self._waiting: deque[Copy] = deque()
        self._rows = 0
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._next_start = 0.0

    def put(self, copy: Copy) -> None:
        """Queue a copy, or drop it if the queue is full."""
        rows, size = self._rows + copy.rows, self._size + copy.size
        if rows > MAX_WAITING_ROWS or size > MAX_WAITING_BYTES:
            self._drop(copy)
            return
        self._waiting.append(copy)
        self._rows, self._size = rows, size
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Drop the waiting copies."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            self._drop(self._take())

    async def _work(self) -> None:
        REQUESTS.set(())  # keep copies out of their requests' traces
        try:
            while self._waiting:
                await self._wait_until_idle()
                started = deadlines.now()
                copy = self._take()
                prediction = None
                try:
                    prediction = await self._answer(copy)
                finally:
                    copy.done(prediction)
                now = deadlines.now()
                self._next_start = now + (now - started) / MAX_BUSY_FRACTION
        finally:
            self._task = None

    async def _wait_until_idle(self) -> None:
        servers = self._predictor.client.pool.servers
        while any(server.calls for server in servers) and deadlines.now() < self._next_start:
            await asyncio.sleep(IDLE_CHECK_SECONDS)

    async def _answer(self, copy: Copy) -> Prediction | None:
        """Count the shadow's labels and return its prediction, None if it is not comparable."""
        target = copy.target
        assert target.version is not None
        try:
            prediction = await self._predict(copy)
        except ClientError:
            self._metrics.count_shadow_call(target.model, target.version, "failed")
            return None
        outcome = "ok" if is_valid(prediction.outputs) else "invalid"
        self._metrics.count_shadow_call(target.model, target.version, outcome)
        original = copy.result.prediction.outputs
        if _shapes(prediction.outputs) != _shapes(original):
            return None
        if LABEL in original:
            flipped = int(np.count_nonzero(prediction.outputs[LABEL] != original[LABEL]))
            for name, rows in (("same", original[LABEL].size - flipped), ("flipped", flipped)):
                if rows:
                    self._metrics.count_shadow_rows(target.model, target.version, name, rows)
        return prediction

    async def _predict(self, copy: Copy) -> Prediction:
        deadline = Deadline(self._timeout)
        schema = await self._predictor.schema(copy.target, deadline)
        call = copy.result.batch.call
        if not schema.reads_like(copy.result.schema):
            call = await self._decode(copy, schema)
        return await self._predictor.copy(copy.target, schema, call, deadline)

    async def _decode(self, copy: Copy, schema: Schema) -> Call:
        """Decode the requests for the shadow version."""
        # Without the invalid requests of the batch, `decode` may group the others differently.
        decode, members = copy.codec.decode_each, range(len(copy.payloads))
        if copy.size > LONG_BODY_BYTES:
            decoding = await asyncio.to_thread(decode, copy.payloads, members, schema)
        else:
            decoding = decode(copy.payloads, members, schema)
        for error in decoding.errors.values():
            raise error
        batch = decoding.batches[0]
        if len(decoding.batches) > 1 or batch.rows != copy.result.batch.rows:
            raise ClientError("the shadow version decodes the requests to different rows")
        return batch.call

    def _take(self) -> Copy:
        copy = self._waiting.popleft()
        self._rows -= copy.rows
        self._size -= copy.size
        return copy

    def _drop(self, copy: Copy) -> None:
        assert copy.target.version is not None
        self._metrics.count_dropped_rows(copy.target.model, copy.target.version, copy.rows)
        copy.done(None)


def _shapes(outputs: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in outputs.items()}
