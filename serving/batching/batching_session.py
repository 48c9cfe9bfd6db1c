"""Batching: requests for the same tensors that wait together are computed together.

Behaviour and texts are those of tensorflow_serving/batching/batching_session.cc and
batching_util.cc, except that an empty batch is computed alone instead of ending the process.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from serving.batching.scheduler import BatchingParameters, BatchScheduler, Task
from serving.batching.session import Arrays
from serving.errors import ServingError, failed_precondition, invalid_argument
from serving.servables.servable import Servable
from serving.servables.tensors import Array, NoArrayError

MAX_PADDED_RANK = 6
# Callers may ask for any subset of a signature's outputs, each of which has batches of its own; the
# original keeps them all.
QUEUES_KEPT = 64


class BatchingSession:
    """Computes requests for the same tensors in batches.

    There is a queue for each set of tensors that are fed and fetched together: one for each
    signature, for each choice of outputs that is asked for, and for each MultiInference.
    """

    def __init__(
        self, servable: Servable, scheduler: BatchScheduler, parameters: BatchingParameters
    ) -> None:
        """Begin without a queue.

        Args:
            servable: the version.
            scheduler: has the threads.
            parameters: for all of its queues.
        """
        self.servable = servable
        self._scheduler = scheduler
        self._parameters = parameters
        self._queues: dict[tuple[frozenset[str], frozenset[str]], _TensorsQueue] = {}
        self._making = threading.Lock()

    def run(self, feeds: Sequence[str], fetches: Sequence[str], arrays: Arrays) -> list[Array]:
        """Compute tensors from tensors, as `Servable.run`, in whatever batch there is.

        Raises:
            ServingError: the request cannot be put into a batch, the queue is full, or the batch
                failed.
            NoArrayError: as `Servable.run`.
        """
        rows = _rows(arrays)
        if rows == 0:  # the original ends here, with the whole process
            return self.servable.run(feeds, fetches, arrays)
        queue = self._queue(frozenset(feeds), frozenset(fetches))
        if queue is None:
            return self.servable.run(feeds, fetches, arrays)
        by_name = dict(zip(feeds, arrays, strict=True))
        outputs = queue.run([by_name[feed] for feed in queue.feeds], rows)
        values = dict(zip(queue.fetches, outputs, strict=True))
        return [values[fetch] for fetch in fetches]

    def close(self) -> None:
        """Free what the version holds; no call may be under way."""
        for queue in self._queues.values():
            queue.close()
        self.servable.close()

    def _queue(self, feeds: frozenset[str], fetches: frozenset[str]) -> _TensorsQueue | None:
        """Return the queue for these tensors, None if there are too many others."""
        queue = self._queues.get((feeds, fetches))
        if queue is not None:
            return queue
        with self._making:
            if (feeds, fetches) not in self._queues and len(self._queues) < QUEUES_KEPT:
                self._queues[feeds, fetches] = _TensorsQueue(
                    self.servable, self._scheduler, self._parameters, sorted(feeds), sorted(fetches)
                )
            return self._queues.get((feeds, fetches))


class _TensorsQueue:
    """Puts the requests for the same tensors together and takes the results apart."""

    def __init__(
        self,
        servable: Servable,
        scheduler: BatchScheduler,
        parameters: BatchingParameters,
        feeds: Sequence[str],
        fetches: Sequence[str],
    ) -> None:
        self.feeds = feeds
        self.fetches = fetches
        self._servable = servable
        self._scheduler = scheduler
        self._parameters = parameters
        self._queue = scheduler.add_queue(parameters, self._process)

    def run(self, arrays: Arrays, rows: int) -> list[Array]:
        tasks = self._scheduler.schedule(self._queue, arrays, rows)
        parts = [task.outputs.result() for task in tasks]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def close(self) -> None:
        self._scheduler.remove_queue(self._queue)

    def _process(self, tasks: Sequence[Task]) -> None:
        try:
            rows = sum(task.rows for task in tasks)
            padded = self._parameters.padded(rows)
            outputs = self._servable.run(self.feeds, self.fetches, self._merged(tasks, padded))
            _check_outputs(outputs, padded)
        except Exception as error:
            if not isinstance(error, (ServingError, NoArrayError)):
                error = ServingError.from_number(13, f"the batch failed: {error}")
            for task in tasks:
                task.outputs.set_exception(error)
            return
        start = 0
        for task in tasks:
            end = start + task.rows
            task.outputs.set_result([output[start:end] for output in outputs])
            start = end

    def _merged(self, tasks: Sequence[Task], padded: int) -> list[Array]:
        merged = []
        for index, feed in enumerate(self.feeds):
            parts = [task.arrays[index] for task in tasks]
            if self._parameters.pad_variable_length_inputs:
                parts = _padded_alike(parts)
            elif any(part.shape[1:] != parts[0].shape[1:] for part in parts):
                raise failed_precondition(
                    f"Tensors with name '{feed}' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true, or ensure that "
                    "all tensors with the same name have equal dimensions starting with the first "
                    "dim."
                )
            missing = padded - sum(len(part) for part in parts)
            if missing:
                # A row that is there is sure to be a valid one.
                parts.append(np.repeat(parts[-1][:1], missing, axis=0))
            merged.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return merged


def _rows(arrays: Arrays) -> int:
    """Return the number of rows of a request.

    Raises:
        ServingError: INVALID_ARGUMENT, there are no tensors, or they do not agree in it.
    """
    if not arrays:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    for array in arrays:
        if array.ndim == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if len(array) != len(arrays[0]):
            raise invalid_argument(
                "Batching Run() input tensors must have equal 0th-dimension size"
            )
    return len(arrays[0])


def _check_outputs(outputs: Arrays, rows: int) -> None:
    for output in outputs:
        if np.ndim(output) == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if len(output) != rows:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                "dimension sizes of the input tensors"
            )


def _padded_alike(parts: list[Array]) -> list[Array]:
    """Pad all dimensions but the first to the longest, each tensor with its own first value."""
    ranks = {part.ndim for part in parts}
    if len(ranks) > 1:  # the original writes beyond its memory
        raise invalid_argument(
            "Tensors with the same name from different tasks must have the same number of "
            f"dimensions to be padded; got {sorted(ranks)}"
        )
    if max(ranks) > MAX_PADDED_RANK:
        raise invalid_argument(f"Only tensors with rank from 1 to {MAX_PADDED_RANK} can be padded.")
    longest = np.max([part.shape[1:] for part in parts], axis=0).tolist()
    return [_padded(part, (len(part), *longest)) for part in parts]


def _padded(part: Array, shape: tuple[int, ...]) -> Array:
    if part.shape == shape:
        return part
    if not part.size:
        raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
    padded = np.empty(shape, part.dtype)
    padded.fill(part.flat[0])
    padded[tuple(slice(length) for length in part.shape)] = part
    return padded
