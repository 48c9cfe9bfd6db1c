"""The batch scheduler: queues of batches, and the threads that compute them.

Behaviour and error messages are those of TensorFlow's shared_batch_scheduler.h.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from serving import errors
from serving.batching.parameters import BatchingParameters
from serving.errors import invalid_argument, unavailable
from serving.servables.session import Cancelled, never
from serving.servables.tensors import Array, Tensor

Arrays = Sequence[Array]


class Task:
    """Rows of one request that go into one batch."""

    __slots__ = ("arrays", "cancelled", "outputs", "rows")

    def __init__(self, arrays: Arrays, rows: int, cancelled: Cancelled = never) -> None:
        self.arrays = arrays
        self.rows = rows
        self.cancelled = cancelled
        self.outputs: Future[list[Tensor]] = Future()

    def end_if_cancelled(self) -> bool:
        """Cancel the task if its caller has stopped waiting; return whether it was cancelled."""
        if not self.cancelled():
            return False
        self.outputs.set_exception(errors.cancelled())
        return True


class _Batch:
    __slots__ = ("opened_at", "rows", "tasks")

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.rows = 0
        self.opened_at = 0.0


class Queue:
    """Batches of requests for the same tensors; the last one is open for more tasks."""

    def __init__(
        self, parameters: BatchingParameters, process: Callable[[Sequence[Task]], None]
    ) -> None:
        self.parameters = parameters
        self.process = process
        self.batches: deque[_Batch] = deque([_Batch()])

    def add(self, tasks: Sequence[Task]) -> None:
        """Add tasks to the open batch, opening another whenever it is full."""
        limit = self.parameters.max_execution_batch_size
        for task in tasks:
            if self.batches[-1].rows + task.rows > limit:
                self.batches.append(_Batch())
            batch = self.batches[-1]
            if not batch.tasks:
                batch.opened_at = time.monotonic()
            batch.tasks.append(task)
            batch.rows += task.rows

    def check_capacity(self, rows: int) -> None:
        """Reject a request that does not fit into the queue.

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
        free_batches = parameters.max_enqueued_batches - len(self.batches)
        room = limit - self.batches[-1].rows
        message = "The batch scheduling queue to which this task was submitted is full; "
        if parameters.enable_large_batch_splitting:
            if rows > free_batches * limit + room:
                raise unavailable(
                    f"{message}task size is {rows} but scheduling capacity is only "
                    f"{free_batches * limit + room} (num_enqueued_batches={len(self.batches)}, "
                    f"max_enqueued_batches={parameters.max_enqueued_batches}, "
                    f"open_batch_size={self.batches[-1].rows}, "
                    f"max_execution_batch_size={limit})"
                )
        elif rows > room and free_batches <= 0:
            raise unavailable(
                f"{message}currently {len(self.batches)} batches enqueued and max_enqueued_batches "
                f"is {parameters.max_enqueued_batches}"
            )

    def split(self, arrays: Arrays, rows: int, cancelled: Cancelled = never) -> list[Task]:
        """Split a request: first the rows that fit into the open batch, then full batches."""
        limit = self.parameters.max_execution_batch_size
        room = limit - self.batches[-1].rows
        if rows <= room or not self.parameters.enable_large_batch_splitting:
            return [Task(arrays, rows, cancelled)]
        ends = [end for end in range(room, rows, limit) if end] + [rows]
        return [
            Task([array[start:end] for array in arrays], end - start, cancelled)
            for start, end in itertools.pairwise((0, *ends))
        ]

    def seconds_until_due(self, now: float) -> float | None:
        """Return the seconds until the first batch is due; None if it is empty."""
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
    """Threads that compute the batches of all queues in turn."""

    def __init__(self, threads: int) -> None:
        self._queues: deque[Queue] = deque()
        self._changed = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._work, name="batch", daemon=True).start()

    def add_queue(
        self, parameters: BatchingParameters, process: Callable[[Sequence[Task]], None]
    ) -> Queue:
        """Add a queue; `process` computes its batches."""
        queue = Queue(parameters, process)
        with self._changed:
            self._queues.append(queue)
        return queue

    def remove_queue(self, queue: Queue) -> None:
        """Remove an empty queue."""
        with self._changed:
            self._queues.remove(queue)

    def schedule(
        self, queue: Queue, arrays: Arrays, rows: int, cancelled: Cancelled = never
    ) -> list[Task]:
        """Add a request to a queue and return its tasks.

        A task is not computed if its caller has stopped waiting when its batch is due.

        Raises:
            ServingError: INVALID_ARGUMENT, it has too many rows; UNAVAILABLE, the queue is full.
        """
        with self._changed:
            queue.check_capacity(rows)
            tasks = queue.split(arrays, rows, cancelled)
            queue.add(tasks)
            self._changed.notify(len(tasks))  # each may be in a batch of its own
        return tasks

    def _work(self) -> None:
        while True:
            with self._changed:
                queue = self._wait_for_due_queue()
                tasks = queue.take()
            remaining = [task for task in tasks if not task.end_if_cancelled()]
            if remaining:
                queue.process(remaining)

    def _wait_for_due_queue(self) -> Queue:
        """Wait for a queue whose first batch is due; return it after moving it to the end."""
        while True:
            now, wait = time.monotonic(), None
            for queue in self._queues:
                seconds = queue.seconds_until_due(now)
                if seconds == 0.0:
                    self._queues.remove(queue)
                    self._queues.append(queue)
                    return queue
                if seconds is not None:
                    wait = seconds if wait is None else min(wait, seconds)
            # A batch timeout may be longer than a thread can wait.
            self._changed.wait(None if wait is None else min(wait, threading.TIMEOUT_MAX))
