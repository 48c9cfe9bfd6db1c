"""The batch scheduler: threads that compute batches, and the queues that they take them from.

Behaviour and texts are those of TensorFlow's shared_batch_scheduler.h.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from serving.batching.session import Arrays
from serving.errors import invalid_argument, unavailable
from serving.servables.tensors import Array

DEFAULT_MAX_BATCH_SIZE = 1000
DEFAULT_MAX_ENQUEUED_BATCHES = 10
POSITIVE, NON_NEGATIVE = 1, 0


def batch_threads(message: Any) -> int:
    """Return how many batches a `BatchingParameters` message wants to be computed at once.

    Raises:
        ServingError: INVALID_ARGUMENT, none at all.
    """
    return _value(message, "num_batch_threads", os.cpu_count() or 1, POSITIVE)


def _value(message: Any, name: str, default: int, least: int) -> int:
    value = int(getattr(message, name).value) if message.HasField(name) else default
    if value < least:
        kind = "positive" if least == POSITIVE else "non-negative"
        raise invalid_argument(f"{name} must be {kind}; was {value}")
    return value


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are put together; the names are those of `--batching_parameters_file`.

    Attributes:
        max_batch_size: most rows of a request, and of a batch unless it is split.
        batch_timeout: seconds that a batch may wait for more rows.
        max_enqueued_batches: batches that may wait in a queue; beyond, requests are refused.
        allowed_batch_sizes: sizes to which batches are padded; none: any size.
        pad_variable_length_inputs: pad dimensions other than the first to the batch's longest.
        enable_large_batch_splitting: let a request go into several batches.
        max_execution_batch_size: most rows of a batch if requests are split.
    """

    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    batch_timeout: float = 0.0
    max_enqueued_batches: int = DEFAULT_MAX_ENQUEUED_BATCHES
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = DEFAULT_MAX_BATCH_SIZE

    @classmethod
    def of(cls, message: Any) -> BatchingParameters:
        """Read a `BatchingParameters` message.

        Raises:
            ServingError: INVALID_ARGUMENT, values that contradict one another.
        """
        max_batch_size = _value(message, "max_batch_size", DEFAULT_MAX_BATCH_SIZE, POSITIVE)
        splitting = message.enable_large_batch_splitting.value
        execution = max_batch_size
        if splitting:
            execution = _value(message, "max_execution_batch_size", max_batch_size, POSITIVE)
        batches = _value(
            message, "max_enqueued_batches", DEFAULT_MAX_ENQUEUED_BATCHES, NON_NEGATIVE
        )
        parameters = cls(
            max_batch_size=max_batch_size,
            batch_timeout=_value(message, "batch_timeout_micros", 0, NON_NEGATIVE) / 1e6,
            max_enqueued_batches=max(1, batches),  # there is always one that is open
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            pad_variable_length_inputs=message.pad_variable_length_inputs,
            enable_large_batch_splitting=splitting,
            max_execution_batch_size=execution,
        )
        parameters._check()
        return parameters

    def _check(self) -> None:
        sizes = self.allowed_batch_sizes
        if self.max_execution_batch_size > self.max_batch_size:
            raise invalid_argument(
                "max_execution_batch_size should be less than or equal to max_batch_size; "
                f"was {self.max_execution_batch_size} and {self.max_batch_size}"
            )
        # The original wants the size that requests may have, its successors that of the batches.
        if sizes and sizes[-1] not in (self.max_batch_size, self.max_execution_batch_size):
            raise invalid_argument(
                "Last entry in allowed_batch_sizes must match max_batch_size; "
                f"last entry was {sizes[-1]}; expected {self.max_batch_size}"
            )

    def padded(self, rows: int) -> int:
        """Return the first allowed size that holds this many rows."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


class Task:
    """Rows of one request that go into one batch."""

    __slots__ = ("arrays", "outputs", "rows")

    def __init__(self, arrays: Arrays, rows: int) -> None:
        self.arrays = arrays
        self.rows = rows
        self.outputs: Future[list[Array]] = Future()


class _Batch:
    __slots__ = ("opened_at", "rows", "tasks")

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.rows = 0
        self.opened_at = 0.0


class Queue:
    """The batches of one signature of one version; the last one is open for more tasks."""

    def __init__(
        self, parameters: BatchingParameters, process: Callable[[Sequence[Task]], None]
    ) -> None:
        self.parameters = parameters
        self.process = process
        self.batches: deque[_Batch] = deque([_Batch()])

    def add(self, tasks: Sequence[Task]) -> None:
        """Put tasks into the open batch, and begin another one whenever it is full."""
        limit = self.parameters.max_execution_batch_size
        for task in tasks:
            if self.batches[-1].rows + task.rows > limit:
                self.batches.append(_Batch())
            batch = self.batches[-1]
            if not batch.tasks:
                batch.opened_at = time.monotonic()
            batch.tasks.append(task)
            batch.rows += task.rows

    def check_room(self, rows: int) -> None:
        """Refuse a request for which there is no room.

        Raises:
            ServingError: INVALID_ARGUMENT, it has too many rows; UNAVAILABLE, the queue is full.
        """
        parameters = self.parameters
        if rows > parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size "
                f"{parameters.max_batch_size}"
            )
        limit = parameters.max_execution_batch_size
        free = parameters.max_enqueued_batches - len(self.batches)
        room = limit - self.batches[-1].rows
        full = "The batch scheduling queue to which this task was submitted is full; "
        if parameters.enable_large_batch_splitting:
            if rows > free * limit + room:
                raise unavailable(
                    f"{full}task size is {rows} but scheduling capacity is only "
                    f"{free * limit + room} (num_enqueued_batches={len(self.batches)}, "
                    f"max_enqueued_batches={parameters.max_enqueued_batches}, "
                    f"open_batch_size={self.batches[-1].rows}, "
                    f"max_execution_batch_size={limit})"
                )
        elif rows > room and free <= 0:
            raise unavailable(
                f"{full}currently {len(self.batches)} batches enqueued and max_enqueued_batches "
                f"is {parameters.max_enqueued_batches}"
            )

    def split(self, arrays: Arrays, rows: int) -> list[Task]:
        """Cut a request into what fits into the open batch, and whole batches."""
        limit = self.parameters.max_execution_batch_size
        room = limit - self.batches[-1].rows
        if rows <= room or not self.parameters.enable_large_batch_splitting:
            return [Task(arrays, rows)]
        ends = [end for end in range(room, rows, limit) if end] + [rows]
        return [
            Task([array[start:end] for array in arrays], end - start)
            for start, end in itertools.pairwise((0, *ends))
        ]

    def due_in(self, now: float) -> float | None:
        """Return the seconds until the first batch is to be computed; None if there is none."""
        first = self.batches[0]
        if not first.tasks:
            return None
        if len(self.batches) > 1 or first.rows >= self.parameters.max_execution_batch_size:
            return 0.0
        return max(0.0, first.opened_at + self.parameters.batch_timeout - now)

    def take(self) -> Sequence[Task]:
        """Remove the first batch and return its tasks."""
        batch = self.batches.popleft()
        if not self.batches:
            self.batches.append(_Batch())
        return batch.tasks


class BatchScheduler:
    """The threads that compute batches, shared by all queues, which take turns."""

    def __init__(self, threads: int) -> None:
        """Start so many threads."""
        self._queues: deque[Queue] = deque()
        self._changed = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._work, name="batch", daemon=True).start()

    def add_queue(
        self, parameters: BatchingParameters, process: Callable[[Sequence[Task]], None]
    ) -> Queue:
        """Add a queue whose batches `process` computes."""
        queue = Queue(parameters, process)
        with self._changed:
            self._queues.append(queue)
        return queue

    def remove_queue(self, queue: Queue) -> None:
        """Remove a queue that is empty."""
        with self._changed:
            self._queues.remove(queue)

    def schedule(self, queue: Queue, arrays: Arrays, rows: int) -> list[Task]:
        """Put a request into a queue, and return the tasks that it became.

        Raises:
            ServingError: INVALID_ARGUMENT, it has too many rows; UNAVAILABLE, the queue is full.
        """
        with self._changed:
            queue.check_room(rows)
            tasks = queue.split(arrays, rows)
            queue.add(tasks)
            self._changed.notify(len(tasks))  # they may be in as many batches
        return tasks

    def _work(self) -> None:
        while True:
            with self._changed:
                queue = self._next_due()
                tasks = queue.take()
            queue.process(tasks)

    def _next_due(self) -> Queue:
        """Wait until a queue has a batch to be computed, and move that queue to the end."""
        while True:
            now, wait = time.monotonic(), None
            for queue in self._queues:
                due_in = queue.due_in(now)
                if due_in == 0.0:
                    self._queues.remove(queue)
                    self._queues.append(queue)
                    return queue
                if due_in is not None:
                    wait = due_in if wait is None else min(wait, due_in)
            self._changed.wait(wait)
