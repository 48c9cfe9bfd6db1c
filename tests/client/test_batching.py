"""Dynamic batching, in virtual time and with a fake model server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.codecs import Call
from client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
    server_error,
)
from client.inference.batching import Limits
from client.serving import deadlines
from client.serving.client import Prediction
from client.serving.deadlines import Deadline
from tests.support.together import SharedCalls

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer."""

    moment = 0.0

    def time(self) -> float:
        return self.moment

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            scheduled = self._scheduled  # type: ignore[attr-defined]
            assert scheduled, "deadlock: no timer is scheduled"
            self.moment = max(self.moment, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    loop = VirtualLoop()
    real, deadlines.now = deadlines.now, loop.time
    try:
        return loop.run_until_complete(main)
    finally:
        deadlines.now = real
        loop.close()


BAD = -1.0
KINDS: tuple[tuple[str, tuple[int, ...], Any], ...] = (
    ("one", (), np.float32),
    ("one", (2,), np.float32),
    ("one", (2,), np.int64),
    ("two", (), np.float32),
)
FACTORS = {"one": 2, "two": 3}


@dataclass(frozen=True)
class Request:
    """A request; `send_all` adds fractions to its times, so that no two events coincide."""

    at: int
    rows: int
    kind: int = 0
    bad: bool = False
    timeout: int = 100
    cancelled_after: int | None = None
    group: str = "m"
    output_filter: tuple[str, ...] = ()

    def call(self, number: int) -> Call:
        name, tail, dtype = KINDS[self.kind]
        column = np.arange(self.rows) + 100 * number
        if self.bad:
            column[-1] = BAD
        shape = (self.rows, *(1 for _ in tail))
        values = np.broadcast_to(column.reshape(shape), (self.rows, *tail)).astype(dtype)
        return Call(name, {"x": values}, self.output_filter)


@dataclass
class FakeServer:
    """Multiplies inputs by their signature's factor after a latency, and records the calls."""

    latencies: Sequence[int] = (1,)
    codes: Sequence[grpc.StatusCode] = (grpc.StatusCode.OK,)
    max_rows: int = 1000
    collapses: bool = False
    calls: list[tuple[str, Call]] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0

    async def send(self, group: str, call: Call, seconds: float) -> Prediction:
        number = len(self.calls)
        self.calls.append((group, call))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        latency = self.latencies[number % len(self.latencies)]
        try:
            await asyncio.sleep(min(latency, seconds))
        finally:
            self.in_flight -= 1
        if latency > seconds:
            raise DeadlineExceededError("late")
        code = self.codes[number % len(self.codes)]
        if code is not grpc.StatusCode.OK:
            raise server_error(code, f"call {number} failed")
        values = call.inputs["x"]
        if (values == BAD).any():
            raise InvalidArgumentError("a row is bad")
        if len(values) > self.max_rows:
            raise InvalidArgumentError("too many rows")
        names = np.array([f"{group} {v}" for v in values.reshape(len(values), -1)[:, 0]], object)
        y = values * FACTORS[call.signature_name]
        outputs = {"y": y[:1] if self.collapses else y, "name": names}
        output_names = call.output_filter or tuple(outputs)
        return Prediction({name: outputs[name] for name in output_names}, 1)


@dataclass
class Outcome:
    """The prediction or the error of a request, and its time."""

    at: float
    prediction: Prediction | None = None
    error: BaseException | None = None


async def send_all(
    shared: SharedCalls, requests: Sequence[Request], batched: bool = True
) -> list[Outcome]:
    """Send and cancel each request at its time."""
    loop = asyncio.get_running_loop()

    async def send(number: int, request: Request) -> Outcome:
        await asyncio.sleep(request.at)
        prediction = asyncio.ensure_future(
            shared.predict(
                request.group,
                request.call(number),
                Deadline(request.timeout + 0.5),
                batched=batched,
            )
        )
        if request.cancelled_after is not None:
            loop.call_later(request.cancelled_after + 0.25, prediction.cancel)
        try:
            return Outcome(at=0, prediction=await prediction, error=None)
        except (Exception, asyncio.CancelledError) as error:
            return Outcome(at=0, error=error)

    async def add_time(sending: Awaitable[Outcome]) -> Outcome:
        outcome = await sending
        outcome.at = loop.time()
        return outcome

    outcomes = await asyncio.gather(
        *(add_time(send(n, request)) for n, request in enumerate(requests))
    )
    # Calls continue after their callers have left.
    await asyncio.gather(*shared.batcher._tasks, return_exceptions=True)
    await asyncio.sleep(0)
    return outcomes


def check_own_rows(number: int, request: Request, outcome: Outcome) -> None:
    assert outcome.prediction is not None
    call = request.call(number)
    expected = call.inputs["x"]
    assert tuple(outcome.prediction.outputs) == (request.output_filter or ("y", "name"))
    np.testing.assert_array_equal(
        outcome.prediction.outputs["y"], expected * FACTORS[call.signature_name]
    )
    assert outcome.prediction.outputs["y"].dtype == expected.dtype
    first = expected.reshape(len(expected), -1)[:, 0]
    if not request.output_filter:
        assert outcome.prediction.outputs["name"].tolist() == [
            f"{request.group} {v}" for v in first
        ]


REQUESTS = st.lists(
    st.builds(
        Request,
        at=st.integers(0, 8),
        rows=st.integers(1, 6),
        kind=st.sampled_from([0, 0, 0, 1, 2, 3]),
        bad=st.sampled_from([False] * 9 + [True]),
        timeout=st.sampled_from([100, 100, 100, 2, 5]),
        cancelled_after=st.sampled_from([None, None, None, 0, 1, 4]),
        group=st.sampled_from(["m", "m", "m", "n"]),
        output_filter=st.sampled_from([(), (), ("y",)]),
    ),
    min_size=12,
    max_size=40,
)
LIMITS = st.builds(
    Limits,
    rows=st.sampled_from([1, 2, 7, 1000]),
    size=st.sampled_from([20, 100, 4_000_000]),
    calls=st.sampled_from([1, 1, 2]),
    alone_size=st.sampled_from([16, 1000]),
    waiting=st.sampled_from([3, 1000]),
    waiting_size=st.sampled_from([150, 64_000_000]),
)
OK, GONE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
BROKEN, BUSY = grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED
SERVERS = st.builds(
    FakeServer,
    latencies=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    codes=st.lists(st.sampled_from([OK, OK, OK, OK, GONE, BROKEN, BUSY]), min_size=1, max_size=5),
    max_rows=st.sampled_from([1000, 1000, 6]),
)


@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, limits=LIMITS, server=SERVERS)
def test_each_caller_gets_its_own_rows_or_its_own_error(
    requests: list[Request], limits: Limits, server: FakeServer
) -> None:
    shared = SharedCalls(server.send, limits)
    outcomes = run(send_all(shared, requests))
    for number, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        end = request.at + request.timeout + 0.5
        assert outcome.at <= end
        match outcome.error:
            case None:
                assert not request.bad
                check_own_rows(number, request, outcome)
            case asyncio.CancelledError():
                assert request.cancelled_after is not None
                assert outcome.at == request.at + request.cancelled_after + 0.25
            case DeadlineExceededError():
                assert outcome.at == end
            case InvalidArgumentError():
                assert request.bad or request.rows > server.max_rows
            case ResourceExhaustedError(message=message) if "already waiting" in message:
                assert outcome.at == request.at
                assert min(limits.waiting, limits.waiting_size) < 1000
            case ServerError(code=code):
                assert code in server.codes
            case _:
                pytest.fail(f"unexpected: {outcome.error!r}")
    for _, call in server.calls:
        values = call.inputs["x"]
        assert len(values) <= max(limits.rows, 6)
        # No call mixes kinds: numpy would have promoted a mixture to another dtype.
        assert any(
            (call.signature_name, values.shape[1:], values.dtype) == (name, tail, dtype)
            for name, tail, dtype in KINDS
        )
    assert not shared.batcher._queues
    assert not shared.batcher._tasks
    assert (shared.batcher._waiting, shared.batcher._waiting_size) == (0, 0)
    assert not shared.batcher._watch._ends


def run_requests(requests: Sequence[Request], server: FakeServer, **options: Any) -> list[Outcome]:
    batched, slots = options.pop("batched", True), options.pop("slots", 1)
    return run(send_all(SharedCalls(server.send, Limits(**options), slots), requests, batched))


def rows_per_call(server: FakeServer) -> list[int]:
    return [len(call.inputs["x"]) for _, call in server.calls]


def test_requests_that_arrive_during_a_call_share_the_next_one() -> None:
    server = FakeServer(latencies=[5])
    requests = [Request(at=0, rows=1), *(Request(at=1 + i % 4, rows=2) for i in range(20))]
    outcomes = run_requests(requests, server)
    assert rows_per_call(server) == [1, 40]
    assert [outcome.at for outcome in outcomes] == [5] + [10] * 20


def test_simultaneous_requests_share_the_first_call() -> None:
    server = FakeServer()
    run_requests([Request(at=0, rows=1)] * 10, server)
    assert rows_per_call(server) == [10]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_each_slot_has_one_batch_in_flight(slots: int) -> None:
    server = FakeServer(latencies=[10])
    run_requests([Request(at=i, rows=1) for i in range(9)], server, slots=slots)
    assert server.max_in_flight == slots


def test_calls_are_bounded_by_rows_and_by_bytes() -> None:
    requests = [Request(at=0, rows=1), *[Request(at=1, rows=3)] * 5]
    for limit in ({"rows": 7}, {"size": 7 * 4}):
        server = FakeServer(latencies=[5])
        run_requests(requests, server, **limit)
        assert rows_per_call(server) == [1, 6, 6, 3]


def test_large_request_does_not_wait_for_the_call_in_flight() -> None:
    server = FakeServer(latencies=[5])
    outcomes = run_requests([Request(at=0, rows=1), Request(at=1, rows=6)], server, alone_size=24)
    assert [outcome.at for outcome in outcomes] == [5, 6]


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_unshared_calls_wait_for_a_free_slot(calls: int) -> None:
    for options in (
        {"rows": 1},
        {"batched": False},
        {"alone_size": 1},
        {"alone_size": 1, "batched": False},
    ):
        server = FakeServer(latencies=[5])
        outcomes = run_requests([Request(at=0, rows=1)] * 5, server, calls=calls, **options)
        assert not any(outcome.error for outcome in outcomes)
        assert server.max_in_flight == calls
        assert rows_per_call(server) == [1] * 5


def test_all_kinds_of_unshared_calls_share_one_limit() -> None:
    server = FakeServer(latencies=[5])

    async def send_both() -> None:
        shared = SharedCalls(server.send, Limits(calls=2, alone_size=24))
        await asyncio.gather(
            send_all(shared, [Request(at=0, rows=6)] * 3),
            send_all(shared, [Request(at=0, rows=1, group="n")] * 3, batched=False),
        )

    run(send_both())
    assert len(server.calls) == 6
    assert server.max_in_flight == 2


def test_call_that_waits_for_a_slot_times_out() -> None:
    server = FakeServer(latencies=[5])
    requests = [Request(at=0, rows=1), Request(at=0, rows=1, timeout=2)]
    outcomes = run_requests(requests, server, rows=1, calls=1)
    assert isinstance(outcomes[1].error, DeadlineExceededError)
    assert (outcomes[0].at, outcomes[1].at) == (5, 2.5)


def test_full_queue_rejects_requests_with_retry_after() -> None:
    server = FakeServer(latencies=[5])
    requests = [Request(at=0, rows=1), *[Request(at=1, rows=1)] * 5]
    for limit in ({"waiting": 3}, {"waiting_size": 3 * 4}):
        outcomes = run_requests(requests, server, **limit)
        errors = [outcome.error for outcome in outcomes if outcome.error]
        assert [type(error) for error in errors] == [ResourceExhaustedError] * 2
        assert isinstance(errors[0], ClientError)
        assert (errors[0].status, errors[0].retry_after) == (429, 1)


def test_cancelled_and_expired_requests_leave_the_queue() -> None:
    server = FakeServer(latencies=[5])
    requests = [
        Request(at=0, rows=1),
        Request(at=1, rows=2, cancelled_after=1),
        Request(at=1, rows=3, timeout=1),
        Request(at=3, rows=4),
    ]
    outcomes = run_requests(requests, server, waiting=2)
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        asyncio.CancelledError,
        DeadlineExceededError,
        type(None),
    ]
    assert outcomes[2].at == 2.5
    assert rows_per_call(server) == [1, 4]


def test_deadline_during_a_shared_call_fails_only_its_request() -> None:
    server = FakeServer(latencies=[5])
    requests = [
        Request(at=0, rows=1),
        Request(at=1, rows=1, timeout=6),
        Request(at=1, rows=1, timeout=20),
        Request(at=1, rows=1, cancelled_after=5),
    ]
    outcomes = run_requests(requests, server)
    assert rows_per_call(server) == [1, 3]
    assert isinstance(outcomes[1].error, DeadlineExceededError)
    assert outcomes[1].error.status == 504
    assert outcomes[1].at == 7.5
    check_own_rows(2, requests[2], outcomes[2])
    assert outcomes[2].at == 10


def test_bisection_isolates_the_faulty_request() -> None:
    server = FakeServer()
    requests = [Request(at=0, rows=1, bad=i == 21) for i in range(64)]
    outcomes = run_requests(requests, server)
    assert [n for n, outcome in enumerate(outcomes) if outcome.error] == [21]
    assert str(outcomes[21].error) == "a row is bad"
    assert len(server.calls) == 1 + 2 * 6


@pytest.mark.parametrize("code", [GONE, BUSY, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_row_independent_errors_are_not_bisected(code: grpc.StatusCode) -> None:
    server = FakeServer(codes=[code])
    outcomes = run_requests([Request(at=0, rows=1)] * 8, server)
    assert len(server.calls) == 1
    errors = [outcome.error for outcome in outcomes]
    assert {type(error) for error in errors} == {type(server_error(code, ""))}
    assert len(set(map(id, errors))) == 8


def test_row_limit_of_the_server_is_learned() -> None:
    server = FakeServer(max_rows=16)
    early, late = [Request(at=0, rows=1)] * 64, [Request(at=50, rows=1)] * 64
    assert not any(outcome.error for outcome in run_requests([*early, *late], server))
    assert rows_per_call(server) == [64, 32, 16, 16, 32, 16, 16, 16, 16, 16, 16]


def test_cancelled_faulty_request_does_not_lower_the_row_limit() -> None:
    server = FakeServer()
    early = [
        Request(at=0, rows=1, bad=i == 0, cancelled_after=0 if i == 0 else None) for i in range(4)
    ]
    run_requests([*early, *[Request(at=50, rows=1)] * 4], server)
    assert rows_per_call(server) == [4, 2, 1, 2, 4]


def test_outputs_without_a_row_per_input_row_are_not_split() -> None:
    server = FakeServer(collapses=True)
    requests = [Request(at=at, rows=1) for at in (0, 0, 0, 0, 20, 20)]
    requests += [Request(at=1, rows=1)] * 2
    outcomes = run_requests(requests, server)
    for number, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        check_own_rows(number, request, outcome)
    assert rows_per_call(server) == [4] + [1] * 8


def test_requests_queued_before_the_row_limit_is_learned_are_answered() -> None:
    server = FakeServer(latencies=[5], max_rows=3)
    requests = [Request(at=0, rows=2)] * 2 + [Request(at=1, rows=3)] * 2
    outcomes = run_requests(requests, server)
    for number, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        check_own_rows(number, request, outcome)
    assert rows_per_call(server) == [4, 2, 2, 3, 3]


def test_signatures_without_rows_are_never_batched() -> None:
    server = FakeServer()
    run_requests([Request(at=0, rows=1)] * 4, server, batched=False)
    assert rows_per_call(server) == [1] * 4


def test_inputs_without_a_common_number_of_rows_are_not_combined() -> None:
    server = FakeServer()

    async def send_twice() -> None:
        shared = SharedCalls(server.send)
        for uneven in ({"x": np.ones(1), "z": np.ones(2)}, {"x": np.ones(0)}, {"x": np.ones(())}):
            calls = [Call("one", uneven), Call("one", uneven)]
            predictions = (shared.predict("m", c, Deadline(9), batched=True) for c in calls)
            await asyncio.gather(*predictions, return_exceptions=True)

    run(send_twice())
    assert len(server.calls) >= 6
    assert {call.inputs["x"].size for _, call in server.calls} == {0, 1}


def test_unexpected_exception_fails_every_request() -> None:
    async def broken(group: str, call: Call, seconds: float) -> Prediction:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    async def send_to_broken_server() -> list[Outcome]:
        shared = SharedCalls(broken)
        outcomes = await send_all(shared, [Request(at=0, rows=1), *[Request(at=0, rows=1)] * 3])
        assert not shared.batcher._queues
        return outcomes

    outcomes = run(send_to_broken_server())
    assert {type(outcome.error) for outcome in outcomes} == {ZeroDivisionError}


def test_close_fails_all_requests() -> None:
    async def close_early() -> list[Outcome]:
        shared = SharedCalls(FakeServer(latencies=[50]).send)
        requests = [Request(at=0, rows=1), *[Request(at=1, rows=1)] * 3]
        outcomes = asyncio.ensure_future(send_all(shared, requests))
        await asyncio.sleep(2)
        await shared.batcher.close()
        return await outcomes

    outcomes = run(close_early())
    assert {type(outcome.error) for outcome in outcomes} == {UnavailableError}


def test_observers_get_requests_rows_and_waiting_times() -> None:
    calls: list[tuple[int, int]] = []
    waits: list[float] = []

    async def send_observed() -> None:
        shared = SharedCalls(
            FakeServer(latencies=[5]).send,
            observe=lambda requests, rows: calls.append((requests, rows)),
            observe_wait=waits.append,
        )
        await send_all(
            shared, [Request(at=0, rows=1), Request(at=2, rows=2), Request(at=3, rows=4)]
        )

    run(send_observed())
    assert calls == [(1, 1), (2, 6)]
    assert waits == [0, 3]


def test_unexpected_error_fails_only_the_request_at_fault() -> None:
    async def fail_if_bad(group: str, call: Call, seconds: float) -> Prediction:
        await asyncio.sleep(1)
        if (call.inputs["x"] == BAD).any():
            raise ZeroDivisionError
        return Prediction({"y": call.inputs["x"]}, 1)

    requests = [Request(at=0, rows=1), *(Request(at=0, rows=1, bad=i == 5) for i in range(9))]
    outcomes = run(send_all(SharedCalls(fail_if_bad), requests))
    assert [type(outcome.error) for outcome in outcomes].index(ZeroDivisionError) == 6
    assert sum(outcome.error is None for outcome in outcomes) == 9
