"""The batch scheduler: queues, batches, splitting, limits and cancellation."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching.batching_session import BatchingSession
from serving.batching.parameters import BatchingParameters
from serving.batching.scheduler import BatchScheduler, Queue, Task
from serving.config.messages_pb2 import BatchingParameters as Message
from serving.errors import ServingError, cancelled, internal
from serving.servables.session import never
from serving.servables.tensors import ProtoTensor, Tensor


def parameters(**values: Any) -> BatchingParameters:
    message = Message(allowed_batch_sizes=values.pop("allowed_batch_sizes", []))
    for name, value in values.items():
        getattr(message, name).value = value
    return BatchingParameters.of(message)


class Doubling:
    """Computes batches by doubling, and records their sizes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self._seconds = seconds

    def __call__(self, tasks: Sequence[Task]) -> None:
        self.sizes.append(sum(task.rows for task in tasks))
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        for task in tasks:
            task.outputs.set_result([task.arrays[0] * 2])


def double(scheduler: BatchScheduler, queue: Queue, rows: Any) -> Any:
    tasks = scheduler.schedule(queue, [rows], len(rows))
    return np.concatenate([task.outputs.result(10)[0] for task in tasks])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be positive; was 0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        ({"max_enqueued_batches": -1}, "max_enqueued_batches must be non-negative; was -1"),
        (
            {"max_batch_size": 8, "allowed_batch_sizes": [2, 4]},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            {
                "max_batch_size": 8,
                "enable_large_batch_splitting": True,
                "max_execution_batch_size": 16,
            },
            "max_execution_batch_size should be less than or equal to max_batch_size",
        ),
        (
            {
                "max_batch_size": 8,
                "enable_large_batch_splitting": True,
                "max_execution_batch_size": 4,
                "allowed_batch_sizes": [2, 6],
            },
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 6",
        ),
    ],
)
def test_invalid_parameters_are_rejected(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ServingError, match=text):
        parameters(**values)


def test_full_queue_raises_unavailable() -> None:
    queue = Queue(parameters(max_batch_size=2, max_enqueued_batches=2), lambda tasks: None)
    for _ in range(4):
        queue.check_capacity(1)
        queue.add([Task([], 1)])
    with pytest.raises(ServingError, match="currently 2 batches enqueued") as error:
        queue.check_capacity(1)
    assert error.value.code is grpc.StatusCode.UNAVAILABLE


def test_splitting_queue_rejects_requests_beyond_its_capacity() -> None:
    values = {"enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    queue = Queue(
        parameters(max_batch_size=100, max_enqueued_batches=3, **values), lambda tasks: None
    )
    queue.add(queue.split([np.zeros(6)], 6))
    queue.check_capacity(6)
    with pytest.raises(ServingError, match="scheduling capacity is only 6") as error:
        queue.check_capacity(7)
    assert error.value.code is grpc.StatusCode.UNAVAILABLE


def test_batch_waits_for_more_rows_until_its_timeout() -> None:
    scheduler = BatchScheduler(threads=1)
    compute = Doubling()
    queue = scheduler.add_queue(parameters(batch_timeout_micros=300_000), compute)
    started = time.monotonic()
    tasks = [task for _ in range(3) for task in scheduler.schedule(queue, [np.ones(2)], 2)]
    for task in tasks:
        task.outputs.result(5)
    assert 0.25 < time.monotonic() - started < 2
    assert compute.sizes == [6]


def test_maximum_timeout_does_not_overflow() -> None:
    scheduler = BatchScheduler(threads=1)
    longest = parameters(batch_timeout_micros=2**63 - 1, max_batch_size=2)
    queue = scheduler.add_queue(longest, Doubling())
    (first,) = scheduler.schedule(queue, [np.ones(1)], 1)
    time.sleep(0.1)  # the thread waits
    double(scheduler, queue, np.ones(1))
    first.outputs.result(5)


class _FailingFirst:
    """Fails for a row of 0, and computes other rows slowly."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, feeds: Any, fetches: Any, inputs: Any, cancelled: Any = never) -> list[Any]:
        if not inputs[0][0]:
            raise internal("failed")
        time.sleep(0.3)
        self.runs += 1
        return list(inputs)

    def close(self) -> None:
        pass


def test_failed_split_request_waits_for_all_its_batches() -> None:
    session = _FailingFirst()
    single = parameters(
        max_batch_size=2,
        enable_large_batch_splitting=True,
        max_execution_batch_size=1,
    )
    batching = BatchingSession(session, BatchScheduler(threads=2), single)
    with pytest.raises(ServingError, match="failed"):
        batching.run(["x"], ["y"], [np.arange(2.0)])
    assert session.runs == 1


class _Session:
    """Computes a function of the number of the run, counted from 1, and the input."""

    def __init__(self, compute: Callable[[int, Any], Tensor]) -> None:
        self._compute = compute
        self._numbers = itertools.count(1)

    def run(self, feeds: Any, fetches: Any, inputs: Any, cancelled: Any = never) -> list[Tensor]:
        return [self._compute(next(self._numbers), inputs[0])]

    def close(self) -> None:
        pass


def test_cancelled_call_does_not_cancel_others_in_its_batch() -> None:
    def compute(number: int, rows: Any) -> Tensor:
        if number == 2:  # the first task of the batch, run alone
            raise cancelled()
        return ProtoTensor(tf.make_tensor_proto(rows))

    pair = parameters(max_batch_size=2, batch_timeout_micros=60_000_000)
    batching = BatchingSession(_Session(compute), BatchScheduler(threads=1), pair)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(batching.run, ["x"], ["y"], [np.ones(1)]) for _ in range(2)]
    assert sorted(str(call.exception()) for call in calls) == ["None", str(cancelled())]


def test_split_request_fails_if_its_outputs_differ_in_shape() -> None:
    single = parameters(
        max_batch_size=2,
        enable_large_batch_splitting=True,
        max_execution_batch_size=1,
    )
    session = _Session(lambda number, rows: np.ones((len(rows), number)))
    batching = BatchingSession(session, BatchScheduler(threads=1), single)
    with pytest.raises(ServingError, match="have different shapes") as error:
        batching.run(["x"], ["y"], [np.ones(2)])
    assert error.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_full_batch_does_not_wait() -> None:
    scheduler = BatchScheduler(threads=1)
    patient = parameters(batch_timeout_micros=60_000_000, max_batch_size=4)
    queue = scheduler.add_queue(patient, Doubling())
    started = time.monotonic()
    double(scheduler, queue, np.ones(4))
    assert time.monotonic() - started < 5


def test_batches_due_together_run_in_parallel() -> None:
    scheduler = BatchScheduler(threads=4)
    compute = Doubling(seconds=1.0)
    splitting = parameters(
        max_batch_size=100, enable_large_batch_splitting=True, max_execution_batch_size=5
    )
    queue = scheduler.add_queue(splitting, compute)
    started = time.monotonic()
    np.testing.assert_array_equal(double(scheduler, queue, np.arange(20)), np.arange(20) * 2)
    assert time.monotonic() - started < 3
    assert compute.sizes == [5, 5, 5, 5]
    assert len(compute.threads) == 4


def test_batch_of_cancelled_tasks_is_not_computed() -> None:
    compute, scheduler = Doubling(), BatchScheduler(1)
    queue = scheduler.add_queue(parameters(batch_timeout_micros=200_000), compute)
    tasks = scheduler.schedule(queue, [np.ones(2)], 2, cancelled=lambda: True)
    for task in tasks:
        with pytest.raises(ServingError, match="has stopped waiting"):
            task.outputs.result(10)
    assert compute.sizes == []


def test_rows_of_cancelled_tasks_are_not_computed() -> None:
    compute, scheduler = Doubling(), BatchScheduler(1)
    queue = scheduler.add_queue(parameters(batch_timeout_micros=200_000), compute)
    scheduler.schedule(queue, [np.ones(2)], 2, cancelled=lambda: True)
    np.testing.assert_array_equal(double(scheduler, queue, np.arange(3)), [0, 2, 4])
    assert compute.sizes == [3]


def test_queues_take_turns() -> None:
    """A busy model does not block another."""
    scheduler = BatchScheduler(threads=1)
    small = parameters(max_batch_size=1, max_enqueued_batches=1000)
    busy, idle = (scheduler.add_queue(small, Doubling(seconds=0.01)) for _ in range(2))
    tasks = [task for _ in range(200) for task in scheduler.schedule(busy, [np.ones(1)], 1)]
    double(scheduler, idle, np.ones(1))
    assert sum(task.outputs.done() for task in tasks) < 10


def test_removing_a_queue_keeps_the_others() -> None:
    scheduler = BatchScheduler(threads=2)
    removed, remaining = (scheduler.add_queue(parameters(), Doubling()) for _ in range(2))
    double(scheduler, removed, np.ones(1))
    scheduler.remove_queue(removed)
    np.testing.assert_array_equal(double(scheduler, remaining, np.arange(3)), [0, 2, 4])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    max_rows=st.integers(9, 20),
    splitting=st.booleans(),
    micros=st.sampled_from([0, 500]),
    callers=st.integers(1, 8),
    threads=st.integers(1, 3),
)
def test_every_row_is_computed_once_and_returned_to_its_request(
    sizes: list[int], max_rows: int, splitting: bool, micros: int, callers: int, threads: int
) -> None:
    values = {
        "max_batch_size": max_rows,
        "max_enqueued_batches": 1000,
        "batch_timeout_micros": micros,
    }
    if splitting:
        values |= {"enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    scheduler, compute = BatchScheduler(threads), Doubling()
    queue = scheduler.add_queue(parameters(**values), compute)
    ends = np.cumsum(sizes)
    requests = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    with ThreadPoolExecutor(callers) as pool:
        responses = list(pool.map(lambda rows: double(scheduler, queue, rows), requests))
    for rows, response in zip(requests, responses, strict=True):
        np.testing.assert_array_equal(response, rows * 2)
    assert sum(compute.sizes) == sum(sizes)
    assert max(compute.sizes) <= (4 if splitting else max_rows)


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True).map(sorted),
    rows=st.integers(1, 100),
)
def test_batch_is_padded_to_the_smallest_allowed_size(sizes: list[int], rows: int) -> None:
    allowed = parameters(max_batch_size=sizes[-1], allowed_batch_sizes=sizes)
    rows = min(rows, sizes[-1])
    padded_size = allowed.padded_size(rows)
    assert padded_size in sizes
    assert rows <= padded_size
    assert not [size for size in sizes if rows <= size < padded_size]
