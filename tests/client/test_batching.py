"""Requests that share calls: every caller gets exactly its own, whatever the others do.

The properties are tested in a time that passes only in the tests, against a model server that is a
function; the same against a real one at the end.
"""

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
            assert scheduled, "everybody waits for nothing"
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
class Asked:
    """A request: moments and durations are whole, those that must not coincide a fraction off."""

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
    """Multiplies its inputs, slowly, by the signature's factor; records the requests."""

    latencies: Sequence[int] = (1,)
    codes: Sequence[grpc.StatusCode] = (grpc.StatusCode.OK,)
    most_rows: int = 1000
    collapses: bool = False
    calls: list[tuple[str, Call]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def send(self, group: str, call: Call, seconds: float) -> Prediction:
        number = len(self.calls)
        self.calls.append((group, call))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        latency = self.latencies[number % len(self.latencies)]
        try:
            await asyncio.sleep(min(latency, seconds))
        finally:
            self.under_way -= 1
        if latency > seconds:
            raise DeadlineExceededError("late")
        code = self.codes[number % len(self.codes)]
        if code is not grpc.StatusCode.OK:
            raise server_error(code, f"call {number} failed")
        values = call.inputs["x"]
        if (values == BAD).any():
            raise InvalidArgumentError("a row is bad")
        if len(values) > self.most_rows:
            raise InvalidArgumentError("too many rows")
        names = np.array([f"{group} {v}" for v in values.reshape(len(values), -1)[:, 0]], object)
        y = values * FACTORS[call.signature_name]
        outputs = {"y": y[:1] if self.collapses else y, "name": names}
        wanted = call.output_filter or tuple(outputs)
        return Prediction({name: outputs[name] for name in wanted}, 1)


@dataclass
class Outcome:
    """What a caller got, and when."""

    at: float
    reply: Prediction | None = None
    error: BaseException | None = None


async def ask_all(
    shared: SharedCalls, requests: Sequence[Asked], batched: bool = True
) -> list[Outcome]:
    """Let each request arrive at its time, and be cancelled at its time."""
    loop = asyncio.get_running_loop()

    async def ask(number: int, asked: Asked) -> Outcome:
        await asyncio.sleep(asked.at)
        answer = asyncio.ensure_future(
            shared.predict(
                asked.group, asked.call(number), Deadline(asked.timeout + 0.5), batched=batched
            )
        )
        if asked.cancelled_after is not None:
            loop.call_later(asked.cancelled_after + 0.25, answer.cancel)
        try:
            return Outcome(at=0, reply=await answer, error=None)
        except (Exception, asyncio.CancelledError) as error:
            return Outcome(at=0, error=error)

    async def timed(outcome: Awaitable[Outcome]) -> Outcome:
        got = await outcome
        got.at = loop.time()
        return got

    outcomes = await asyncio.gather(*(timed(ask(n, asked)) for n, asked in enumerate(requests)))
    # An abandoned call goes on.
    await asyncio.gather(*shared.batcher._tasks, return_exceptions=True)
    await asyncio.sleep(0)
    return outcomes


def check_own_rows(number: int, asked: Asked, outcome: Outcome) -> None:
    assert outcome.reply is not None
    call = asked.call(number)
    expected = call.inputs["x"]
    assert tuple(outcome.reply.outputs) == (asked.output_filter or ("y", "name"))
    np.testing.assert_array_equal(
        outcome.reply.outputs["y"], expected * FACTORS[call.signature_name]
    )
    assert outcome.reply.outputs["y"].dtype == expected.dtype
    first = expected.reshape(len(expected), -1)[:, 0]
    if not asked.output_filter:
        assert outcome.reply.outputs["name"].tolist() == [f"{asked.group} {v}" for v in first]


REQUESTS = st.lists(
    st.builds(
        Asked,
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
    most_rows=st.sampled_from([1000, 1000, 6]),
)


@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, limits=LIMITS, server=SERVERS)
def test_each_caller_gets_its_own_rows_or_its_own_error(
    requests: list[Asked], limits: Limits, server: FakeServer
) -> None:
    shared = SharedCalls(server.send, limits)
    outcomes = run(ask_all(shared, requests))
    for number, (asked, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        end = asked.at + asked.timeout + 0.5
        assert outcome.at <= end
        match outcome.error:
            case None:
                assert not asked.bad
                check_own_rows(number, asked, outcome)
            case asyncio.CancelledError():
                assert asked.cancelled_after is not None
                assert outcome.at == asked.at + asked.cancelled_after + 0.25
            case DeadlineExceededError():
                assert outcome.at == end
            case InvalidArgumentError():
                assert asked.bad or asked.rows > server.most_rows
            case ResourceExhaustedError(message=message) if "already waiting" in message:
                assert outcome.at == asked.at
                assert min(limits.waiting, limits.waiting_size) < 1000
            case ServerError(code=code):
                assert code in server.codes
            case _:
                pytest.fail(f"unexpected: {outcome.error!r}")
    for _, call in server.calls:
        values = call.inputs["x"]
        assert len(values) <= max(limits.rows, 6)
        # All of one call are of one kind; a mixture would have been made one by numpy.
        assert any(
            (call.signature_name, values.shape[1:], values.dtype) == (name, tail, dtype)
            for name, tail, dtype in KINDS
        )
    assert not shared.batcher._queues
    assert not shared.batcher._tasks
    assert (shared.batcher._waiting, shared.batcher._waiting_size) == (0, 0)
    assert not shared.batcher._watch._ends


def ask(requests: Sequence[Asked], server: FakeServer, **options: Any) -> list[Outcome]:
    batched, slots = options.pop("batched", True), options.pop("slots", 1)
    return run(ask_all(SharedCalls(server.send, Limits(**options), slots), requests, batched))


def rows_of_calls(server: FakeServer) -> list[int]:
    return [len(call.inputs["x"]) for _, call in server.calls]


def test_who_comes_first_goes_at_once_and_who_comes_during_a_call_goes_together() -> None:
    server = FakeServer(latencies=[5])
    requests = [Asked(at=0, rows=1), *(Asked(at=1 + i % 4, rows=2) for i in range(20))]
    outcomes = ask(requests, server)
    assert rows_of_calls(server) == [1, 40]
    assert [outcome.at for outcome in outcomes] == [5] + [10] * 20


def test_what_arrives_at_the_same_moment_shares_the_first_call_already() -> None:
    server = FakeServer()
    ask([Asked(at=0, rows=1)] * 10, server)
    assert rows_of_calls(server) == [10]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_more_batches_are_in_flight_than_allowed(slots: int) -> None:
    server = FakeServer(latencies=[10])
    ask([Asked(at=i, rows=1) for i in range(9)], server, slots=slots)
    assert server.most_under_way == slots


def test_calls_are_bounded_by_rows_and_by_bytes() -> None:
    requests = [Asked(at=0, rows=1), *[Asked(at=1, rows=3)] * 5]
    for limit in ({"rows": 7}, {"size": 7 * 4}):
        server = FakeServer(latencies=[5])
        ask(requests, server, **limit)
        assert rows_of_calls(server) == [1, 6, 6, 3]


def test_a_large_request_does_not_wait_for_the_call_before() -> None:
    server = FakeServer(latencies=[5])
    outcomes = ask([Asked(at=0, rows=1), Asked(at=1, rows=6)], server, alone_size=24)
    assert [outcome.at for outcome in outcomes] == [5, 6]


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_calls_that_are_not_shared_are_limited_and_wait(calls: int) -> None:
    for options in (
        {"rows": 1},
        {"batched": False},
        {"alone_size": 1},
        {"alone_size": 1, "batched": False},
    ):
        server = FakeServer(latencies=[5])
        outcomes = ask([Asked(at=0, rows=1)] * 5, server, calls=calls, **options)
        assert not any(outcome.error for outcome in outcomes)
        assert server.most_under_way == calls
        assert rows_of_calls(server) == [1] * 5


def test_all_kinds_of_unshared_calls_have_one_limit() -> None:
    server = FakeServer(latencies=[5])

    async def ask_both() -> None:
        shared = SharedCalls(server.send, Limits(calls=2, alone_size=24))
        await asyncio.gather(
            ask_all(shared, [Asked(at=0, rows=6)] * 3),
            ask_all(shared, [Asked(at=0, rows=1, group="n")] * 3, batched=False),
        )

    run(ask_both())
    assert len(server.calls) == 6
    assert server.most_under_way == 2


def test_a_call_that_waits_for_its_turn_has_its_deadline() -> None:
    server = FakeServer(latencies=[5])
    requests = [Asked(at=0, rows=1), Asked(at=0, rows=1, timeout=2)]
    outcomes = ask(requests, server, rows=1, calls=1)
    assert isinstance(outcomes[1].error, DeadlineExceededError)
    assert (outcomes[0].at, outcomes[1].at) == (5, 2.5)


def test_a_full_queue_refuses_at_once_with_a_time_to_come_back() -> None:
    server = FakeServer(latencies=[5])
    requests = [Asked(at=0, rows=1), *[Asked(at=1, rows=1)] * 5]
    for limit in ({"waiting": 3}, {"waiting_size": 3 * 4}):
        outcomes = ask(requests, server, **limit)
        errors = [outcome.error for outcome in outcomes if outcome.error]
        assert [type(error) for error in errors] == [ResourceExhaustedError] * 2
        assert isinstance(errors[0], ClientError)
        assert (errors[0].status, errors[0].retry_after) == (429, 1)


def test_who_gives_up_leaves_the_queue_and_makes_room() -> None:
    server = FakeServer(latencies=[5])
    requests = [
        Asked(at=0, rows=1),
        Asked(at=1, rows=2, cancelled_after=1),
        Asked(at=1, rows=3, timeout=1),
        Asked(at=3, rows=4),
    ]
    outcomes = ask(requests, server, waiting=2)
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        asyncio.CancelledError,
        DeadlineExceededError,
        type(None),
    ]
    assert outcomes[2].at == 2.5
    assert rows_of_calls(server) == [1, 4]


def test_a_deadline_that_passes_during_the_call_is_one_s_own() -> None:
    server = FakeServer(latencies=[5])
    requests = [
        Asked(at=0, rows=1),
        Asked(at=1, rows=1, timeout=6),
        Asked(at=1, rows=1, timeout=20),
        Asked(at=1, rows=1, cancelled_after=5),
    ]
    outcomes = ask(requests, server)
    assert rows_of_calls(server) == [1, 3]
    assert isinstance(outcomes[1].error, DeadlineExceededError)
    assert outcomes[1].error.status == 504
    assert outcomes[1].at == 7.5
    check_own_rows(2, requests[2], outcomes[2])
    assert outcomes[2].at == 10


def test_only_the_guilty_one_fails_and_is_found_by_halving() -> None:
    server = FakeServer()
    requests = [Asked(at=0, rows=1, bad=i == 21) for i in range(64)]
    outcomes = ask(requests, server)
    assert [n for n, outcome in enumerate(outcomes) if outcome.error] == [21]
    assert str(outcomes[21].error) == "a row is bad"
    assert len(server.calls) == 1 + 2 * 6


@pytest.mark.parametrize("code", [GONE, BUSY, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_what_says_nothing_of_the_rows_is_not_tried_in_parts(code: grpc.StatusCode) -> None:
    server = FakeServer(codes=[code])
    outcomes = ask([Asked(at=0, rows=1)] * 8, server)
    assert len(server.calls) == 1
    errors = [outcome.error for outcome in outcomes]
    assert {type(error) for error in errors} == {type(server_error(code, ""))}
    assert len(set(map(id, errors))) == 8


def test_how_many_rows_a_server_takes_is_learnt() -> None:
    server = FakeServer(most_rows=16)
    early, late = [Asked(at=0, rows=1)] * 64, [Asked(at=50, rows=1)] * 64
    assert not any(outcome.error for outcome in ask([*early, *late], server))
    assert rows_of_calls(server) == [64, 32, 16, 16, 32, 16, 16, 16, 16, 16, 16]


def test_a_faulty_request_whose_caller_leaves_limits_no_later_calls() -> None:
    server = FakeServer()
    early = [
        Asked(at=0, rows=1, bad=i == 0, cancelled_after=0 if i == 0 else None) for i in range(4)
    ]
    ask([*early, *[Asked(at=50, rows=1)] * 4], server)
    assert rows_of_calls(server) == [4, 2, 1, 2, 4]


def test_outputs_without_a_row_for_each_row_are_never_shared_out() -> None:
    server = FakeServer(collapses=True)
    requests = [Asked(at=at, rows=1) for at in (0, 0, 0, 0, 20, 20)]
    requests += [Asked(at=1, rows=1)] * 2
    outcomes = ask(requests, server)
    for number, (asked, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        check_own_rows(number, asked, outcome)
    assert rows_of_calls(server) == [4] + [1] * 8


def test_what_already_waits_when_the_limit_is_learnt_is_answered_too() -> None:
    server = FakeServer(latencies=[5], most_rows=3)
    requests = [Asked(at=0, rows=2)] * 2 + [Asked(at=1, rows=3)] * 2
    outcomes = ask(requests, server)
    for number, (asked, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        check_own_rows(number, asked, outcome)
    assert rows_of_calls(server) == [4, 2, 2, 3, 3]


def test_what_cannot_be_told_apart_by_rows_is_never_combined() -> None:
    server = FakeServer()
    ask([Asked(at=0, rows=1)] * 4, server, batched=False)
    assert rows_of_calls(server) == [1] * 4


def test_inputs_of_different_lengths_have_no_rows_to_combine() -> None:
    server = FakeServer()

    async def ask_twice() -> None:
        shared = SharedCalls(server.send)
        for uneven in ({"x": np.ones(1), "z": np.ones(2)}, {"x": np.ones(0)}, {"x": np.ones(())}):
            calls = [Call("one", uneven), Call("one", uneven)]
            answers = (shared.predict("m", c, Deadline(9), batched=True) for c in calls)
            await asyncio.gather(*answers, return_exceptions=True)

    run(ask_twice())
    assert len(server.calls) == 6


def test_a_fault_of_our_own_leaves_nobody_waiting() -> None:
    async def broken(group: str, call: Call, seconds: float) -> Prediction:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    async def ask_and_look() -> list[Outcome]:
        shared = SharedCalls(broken)
        outcomes = await ask_all(shared, [Asked(at=0, rows=1), *[Asked(at=0, rows=1)] * 3])
        assert not shared.batcher._queues
        return outcomes

    outcomes = run(ask_and_look())
    assert {type(outcome.error) for outcome in outcomes} == {ZeroDivisionError}


def test_closing_answers_everybody() -> None:
    async def close_early() -> list[Outcome]:
        shared = SharedCalls(FakeServer(latencies=[50]).send)
        requests = [Asked(at=0, rows=1), *[Asked(at=1, rows=1)] * 3]
        asking = asyncio.ensure_future(ask_all(shared, requests))
        await asyncio.sleep(2)
        await shared.batcher.close()
        return await asking

    outcomes = run(close_early())
    assert {type(outcome.error) for outcome in outcomes} == {UnavailableError}


def test_calls_are_observed_with_how_many_share_them_and_have_waited_how_long() -> None:
    seen: list[tuple[int, int]] = []
    waited: list[float] = []

    async def ask_all_observed() -> None:
        shared = SharedCalls(
            FakeServer(latencies=[5]).send,
            observe=lambda requests, rows: seen.append((requests, rows)),
            observe_wait=waited.append,
        )
        await ask_all(shared, [Asked(at=0, rows=1), Asked(at=2, rows=2), Asked(at=3, rows=4)])

    run(ask_all_observed())
    assert seen == [(1, 1), (2, 6)]
    assert waited == [0, 3]
