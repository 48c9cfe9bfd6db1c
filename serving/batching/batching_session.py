"""Batching: concurrent requests for the same tensors are computed together.

Behaviour and error messages are those of tensorflow_serving/batching/batching_session.cc and
batching_util.cc, except that a request without rows is computed alone instead of waiting for rows
of other requests.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from serving.batching.parameters import BatchingParameters
from serving.batching.scheduler import Arrays, BatchScheduler, Task
from serving.errors import (
    ServingError,
    failed_precondition,
    internal,
    invalid_argument,
    unimplemented,
)
from serving.servables.session import Cancelled, Session, never
from serving.servables.tensors import Array, ProtoTensor, Tensor

MAX_PADDED_RANK = 6
# Callers may fetch any subset of a signature's outputs, and each subset has a queue. TensorFlow
# Serving sets no limit.
MAX_QUEUES = 64


class BatchingSession:
    """Computes requests for the same tensors in batches.

    There is a queue for each set of tensors that are fed and fetched together: for each signature,
    each subset of its outputs and each combination of signatures in a MultiInference request.
    """

    def __init__(
        self, session: Session, scheduler: BatchScheduler, parameters: BatchingParameters
    ) -> None:
        """Take ownership of a session."""
        self._session = session
        self._scheduler = scheduler
        self._parameters = parameters
        self._queues: dict[tuple[frozenset[str], frozenset[str]], _TensorsQueue] = {}
        self._queues_lock = threading.Lock()

    def run(
        self,
        feeds: Sequence[str],
        fetches: Sequence[str],
        inputs: Sequence[Tensor],
        cancelled: Cancelled = never,
    ) -> list[Tensor]:
        """Compute the tensors named `fetches` in a batch; see `Session`.

        Raises:
            ServingError: the request does not fit into a batch, the queue is full, or the batch
                failed.
        """
        rows = _count_rows(inputs)
        queue = self._get_queue(frozenset(feeds), frozenset(fetches)) if rows else None
        # Only arrays can be concatenated.
        if queue is None or not _all_arrays(inputs):
            if rows > self._parameters.max_batch_size:
                raise invalid_argument(
                    f"Task size {rows} is larger than maximum input batch size "
                    f"{self._parameters.max_batch_size}"
                )
            return self._session.run(feeds, fetches, inputs, cancelled)
        by_name = dict(zip(feeds, inputs, strict=True))
        outputs = queue.run([by_name[feed] for feed in queue.feeds], rows, cancelled)
        values = dict(zip(queue.fetches, outputs, strict=True))
        return [values[fetch] for fetch in fetches]

    def close(self) -> None:
        """See `Session`."""
        for queue in self._queues.values():
            queue.close()
        self._session.close()

    def _get_queue(self, feeds: frozenset[str], fetches: frozenset[str]) -> _TensorsQueue | None:
        """Return the queue for these tensors; None if there are too many queues."""
        queue = self._queues.get((feeds, fetches))
        if queue is not None:
            return queue
        with self._queues_lock:
            if (feeds, fetches) not in self._queues and len(self._queues) < MAX_QUEUES:
                self._queues[feeds, fetches] = _TensorsQueue(
                    self._session, self._scheduler, self._parameters, sorted(feeds), sorted(fetches)
                )
            return self._queues.get((feeds, fetches))


class _TensorsQueue:
    """Concatenates requests for the same tensors and splits the results."""

    def __init__(
        self,
        session: Session,
        scheduler: BatchScheduler,
        parameters: BatchingParameters,
        feeds: Sequence[str],
        fetches: Sequence[str],
    ) -> None:
        self.feeds = feeds
        self.fetches = fetches
        self._session = session
        self._scheduler = scheduler
        self._parameters = parameters
        self._queue = scheduler.add_queue(parameters, self._process)

    def run(self, arrays: Arrays, rows: int, cancelled: Cancelled) -> list[Tensor]:
        tasks = self._scheduler.schedule(self._queue, arrays, rows, cancelled)
        # Wait for all: if one fails, the others still use the session.
        concurrent.futures.wait([task.outputs for task in tasks])
        results = [task.outputs.result() for task in tasks]
        if len(results) == 1:
            return results[0]
        try:
            return [np.concatenate(c) for c in zip(*map(_require_arrays, results), strict=True)]
        except ValueError as error:
            raise failed_precondition(
                "the outputs of a split request have different shapes and cannot be concatenated"
            ) from error

    def close(self) -> None:
        self._scheduler.remove_queue(self._queue)

    def _process(self, tasks: Sequence[Task]) -> None:
        try:
            rows = sum(task.rows for task in tasks)
            size = self._parameters.padded_size(rows)
            outputs = self._session.run(self.feeds, self.fetches, self._merge_inputs(tasks, size))
            _check_outputs(outputs, size)
        except Exception as error:
            _fail(tasks, error)
            return
        if not _all_arrays(outputs):
            for task in tasks:
                self._run_alone(task)
            return
        start = 0
        for task in tasks:
            end = start + task.rows
            task.outputs.set_result([output[start:end] for output in outputs])
            start = end

    def _run_alone(self, task: Task) -> None:
        try:
            outputs = self._session.run(self.feeds, self.fetches, task.arrays, task.cancelled)
        except Exception as error:
            _fail([task], error)
        else:
            task.outputs.set_result(outputs)

    def _merge_inputs(self, tasks: Sequence[Task], size: int) -> list[Array]:
        merged = []
        for index, feed in enumerate(self.feeds):
            arrays = [task.arrays[index] for task in tasks]
            if self._parameters.pad_variable_length_inputs:
                arrays = _pad_to_longest(arrays)
            elif any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
                raise failed_precondition(
                    f"Tensors with name '{feed}' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true, or ensure that "
                    "all tensors with the same name have equal dimensions starting with the first "
                    "dim."
                )
            missing = size - sum(map(len, arrays))
            if missing:
                # Repeat a real row, which is sure to be valid.
                arrays.append(np.repeat(arrays[-1][:1], missing, axis=0))
            merged.append(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        return merged


def _fail(tasks: Sequence[Task], error: Exception) -> None:
    if not isinstance(error, ServingError):
        error = internal(f"the batch failed: {error}")
    for task in tasks:
        task.outputs.set_exception(error)


def _all_arrays(inputs: Sequence[Tensor]) -> TypeGuard[Arrays]:
    return not any(isinstance(value, ProtoTensor) for value in inputs)


def _require_arrays(outputs: Sequence[Tensor]) -> Arrays:
    """Return the outputs if all are arrays, which can be concatenated.

    Raises:
        ServingError: UNIMPLEMENTED, numpy cannot hold an output.
    """
    if not _all_arrays(outputs):
        raise unimplemented("outputs of this type or rank cannot be concatenated across batches")
    return outputs


def _count_rows(inputs: Sequence[Tensor]) -> int:
    """Return the number of rows of a request.

    Raises:
        ServingError: INVALID_ARGUMENT, there are no tensors, or their numbers of rows differ.
    """
    if not inputs:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    for value in inputs:
        if value.ndim == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if value.shape[0] != inputs[0].shape[0]:
            raise invalid_argument(
                "Batching Run() input tensors must have equal 0th-dimension size"
            )
    return int(inputs[0].shape[0])


def _check_outputs(outputs: Sequence[Tensor], rows: int) -> None:
    for output in outputs:
        if output.ndim == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if output.shape[0] != rows:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                "dimension sizes of the input tensors"
            )


def _pad_to_longest(arrays: list[Array]) -> list[Array]:
    """Pad all dimensions but the first to the longest, each array with its own first value."""
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1:  # TensorFlow Serving would write out of bounds
        raise invalid_argument(
            "Tensors with the same name from different tasks must have the same number of "
            f"dimensions to be padded; got {sorted(ranks)}"
        )
    if max(ranks) > MAX_PADDED_RANK:
        raise invalid_argument(f"Only tensors with rank from 1 to {MAX_PADDED_RANK} can be padded.")
    longest = np.max([array.shape[1:] for array in arrays], axis=0).tolist()
    return [_pad(array, (len(array), *longest)) for array in arrays]


def _pad(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape == shape:
        return array
    if not array.size:
        raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
    padded = np.empty(shape, array.dtype)
    padded.fill(array.flat[0])
    padded[tuple(slice(length) for length in array.shape)] = array
    return padded
