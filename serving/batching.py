"""Batching: requests for the same tensors that wait together are computed together.

Behaviour and texts are those of tensorflow_serving/batching/batching_session.cc, except that an
empty batch is computed alone instead of ending the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.batch_scheduler import BatchingParameters, BatchScheduler, Task
from serving.errors import ServingError, failed_precondition, invalid_argument
from serving.servable import Servable
from serving.session import Arrays
from serving.tensors import Array

MAX_PADDED_RANK = 6


class BatchingSession:
    """Computes requests that fit one of a version's signatures in batches.

    A request for some of a signature's outputs only fits none and is computed by itself, as in
    TensorFlow Serving.
    """

    def __init__(
        self, servable: Servable, scheduler: BatchScheduler, parameters: BatchingParameters
    ) -> None:
        """Make a queue for each signature.

        Args:
            servable: the version.
            scheduler: has the threads.
            parameters: for all of its queues.
        """
        self.servable = servable
        self._scheduler = scheduler
        self._parameters = parameters
        self._queues: dict[tuple[frozenset[str], frozenset[str]], _SignatureQueue] = {}
        for signature in servable.signatures.values():
            feeds, fetches = sorted(signature.inputs.values()), sorted(signature.outputs.values())
            if feeds:
                made = _SignatureQueue(servable, scheduler, parameters, feeds, fetches)
                key = frozenset(feeds), frozenset(fetches)
                if key not in self._queues:
                    self._queues[key] = made
                else:
                    made.close()

    def run(self, feeds: Sequence[str], fetches: Sequence[str], arrays: Arrays) -> list[Array]:
        """Compute tensors from tensors, as `Servable.run`, in whatever batch there is.

        Raises:
            ServingError: the request cannot be put into a batch, the queue is full, or the batch
                failed.
        """
        queue = self._queues.get((frozenset(feeds), frozenset(fetches)))
        if queue is None:
            return self.servable.run(feeds, fetches, arrays)
        rows = _rows(arrays)
        if rows == 0:  # the original ends here, with the whole process
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


class _SignatureQueue:
    """Puts the requests for one signature together and takes the results apart."""

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
            if not isinstance(error, ServingError):
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
                    "padding is turned off.Set pad_variable_length_inputs to true, or ensure that "
                    "all tensors with the same namehave equal dimensions starting with the first "
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
        ServingError: INVALID_ARGUMENT, its tensors do not agree in it.
    """
    if any(array.ndim == 0 for array in arrays):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    if any(len(array) != len(arrays[0]) for array in arrays):
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
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
    """Pad all dimensions but the first to the longest, with zeros or empty strings."""
    ranks = {part.ndim for part in parts}
    if len(ranks) > 1:
        raise invalid_argument(
            "Tensors with the same name from different tasks must have the same number of "
            f"dimensions to be padded; got {sorted(ranks)}"
        )
    if max(ranks) > MAX_PADDED_RANK:
        raise invalid_argument(
            f"Only tensors with rank from 1 to {MAX_PADDED_RANK} can be padded; got {max(ranks)}"
        )
    longest = np.max([part.shape[1:] for part in parts], axis=0).tolist()
    nothing: Any = b"" if parts[0].dtype == np.object_ else 0
    return [
        np.pad(
            part,
            [(0, 0), *((0, n - have) for n, have in zip(longest, part.shape[1:], strict=True))],
            constant_values=nothing,
        )
        for part in parts
    ]
