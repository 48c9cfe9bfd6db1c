"""The predictor with a real model server: shared calls, and versions that change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from client.codecs import Call
from client.codecs.tfs_rest import predict
from client.errors import ClientError, DeadlineExceededError, InvalidArgumentError
from client.inference.batching import Limits
from client.inference.predictor import Predictor
from client.serving.async_client import AsyncServingClient
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema
from tests.conftest import Starter
from tests.support import affine, forked, guarded, processes
from tests.support.link import Link
from tests.support.together import Asker

GUARDED = Target("guarded")
Read = Callable[[Schema], Call]


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("guarded")
    guarded.publish(folder / "guarded")
    running = forked.start_model_server(
        folder / "log", "--model_name=guarded", f"--model_base_path={folder / 'guarded'}"
    )
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    yield running.address
    assert running.stop() == 0, running.output()


def x(*values: float, signature_name: str = "serving_default") -> Call:
    return Call(signature_name, {"x": np.array(values, np.float32)})


def read_rest(body: bytes, schema: Schema) -> Call:
    return predict.read(body, schema).call


def read(call: Call) -> Read:
    return lambda schema: call


def run(
    server: str, work: Callable[[Asker], Awaitable[Any]], **limits: Any
) -> tuple[Any, Counter[str]]:
    """Return a predictor's results and the number of each call."""
    calls: Counter[str] = Counter()

    async def main() -> Any:
        observe = lambda rpc, code, seconds: calls.update([rpc])  # noqa: E731
        async with AsyncServingClient(server, observe=observe) as connection:
            predictor = Predictor(connection, Limits(**limits))
            return await work(Asker(predictor, Limits(**limits)))

    return asyncio.run(main()), calls


async def ask(predictor: Asker, target: Target, *calls: Call) -> list[Any]:
    """Send all requests at once; errors are among the results."""
    answers = (predictor.answer(target, read(call), Deadline(20)) for call in calls)
    results = await asyncio.gather(*answers, return_exceptions=True)
    return [result[1] if isinstance(result, tuple) else result for result in results]


def test_many_at_once_get_each_its_own_in_a_few_calls(guarded_server: str) -> None:
    calls = [x(*(100.0 * i + j for j in range(1 + i % 3))) for i in range(200)]
    replies, made = run(guarded_server, lambda p: ask(p, GUARDED, *calls))
    for call, reply in zip(calls, replies, strict=True):
        expected = call.inputs["x"]
        np.testing.assert_array_equal(reply.outputs["y"], 2 * expected)
        assert list(reply.outputs["text"]) == [b"%.0f" % value for value in expected]
    assert made["Predict"] <= 3
    assert made["GetModelMetadata"] == 1


def test_a_row_that_the_graph_refuses_fails_alone(guarded_server: str) -> None:
    calls = [x(float(i) if i != 13 else -1.0) for i in range(40)]
    replies, made = run(guarded_server, lambda p: ask(p, GUARDED, *calls))
    assert isinstance(replies[13], InvalidArgumentError)
    assert "x is negative" in replies[13].message
    good = replies[:13] + replies[14:]
    assert all(isinstance(reply, Prediction) for reply in good)
    assert [float(r.outputs["y"][0]) for r in good] == [2.0 * i for i in range(40) if i != 13]
    assert made["Predict"] <= 2 + 2 * 6


def test_outputs_that_only_look_like_rows_are_each_one_s_own(guarded_server: str) -> None:
    calls = [x(1, 1, 2, signature_name="distinct"), x(2, 3, signature_name="distinct")] * 4

    async def twice(predictor: Asker) -> list[Any]:
        first = await ask(predictor, GUARDED, *calls)
        return first + await ask(predictor, GUARDED, *calls)

    replies, made = run(guarded_server, twice)
    assert [reply.outputs["y"].tolist() for reply in replies] == [[1, 2], [2, 3]] * 8
    assert made["Predict"] == 1 + 8 + 8


def test_arrays_of_other_shapes_and_types_share_no_call_and_leave_the_others_alone(
    guarded_server: str,
) -> None:
    # The REST dialect may leave out a length of one: [3] for [n, 1].
    written: list[Any] = [[[1.5], [2], [3]], [4, 5, 6], [[7]], [8], [9], [[10], [11]], [[]], []]
    bodies = [orjson.dumps({"signature_name": "column", "inputs": rows}) for rows in written]
    arrays: list[Any] = [
        np.ones([2, 1], np.float64),
        np.ones([2, 2], np.float32),
        np.ones([1, 1, 1], np.float32),
        np.array([[1]], np.int64),
    ]
    reads: list[Read] = [partial(read_rest, body) for body in bodies]
    reads += [read(Call("column", {"x": array})) for array in arrays]

    async def answer(predictor: Asker, reads: Sequence[Read]) -> list[Any]:
        answers = (predictor.answer(GUARDED, read, Deadline(20)) for read in reads)
        return await asyncio.gather(*answers, return_exceptions=True)

    async def one_by_one(predictor: Asker) -> list[Any]:
        return [outcome for read in reads for outcome in await answer(predictor, [read])]

    alone, made_alone = run(guarded_server, one_by_one)
    together, made = run(guarded_server, lambda predictor: answer(predictor, reads * 20))
    for got, expected in zip(together, alone * 20, strict=True):
        if isinstance(expected, ClientError):
            assert isinstance(got, ClientError)
            assert (got.status, got.message) == (expected.status, expected.message)
            continue
        y = expected[1].outputs["y"]
        assert got[1].outputs["y"].shape == y.shape
        np.testing.assert_array_equal(got[1].outputs["y"], y)
    for rows, outcome in zip(written[:6], alone, strict=False):
        np.testing.assert_array_equal(np.ravel(outcome[1].outputs["y"]), 2 * np.ravel(rows))
    assert made["Predict"] < 5 * made_alone["Predict"]  # those of one kind did share


def test_one_row_a_call_is_a_call_for_each(guarded_server: str) -> None:
    replies, made = run(
        guarded_server, lambda p: ask(p, GUARDED, *(x(i) for i in range(10))), rows=1
    )
    assert [float(reply.outputs["y"][0]) for reply in replies] == [2.0 * i for i in range(10)]
    assert made["Predict"] == 10


def test_deadlines_and_cancellations_are_each_one_s_own(guarded_server: str) -> None:
    link = Link(guarded_server)

    async def some_give_up(predictor: Asker) -> list[Any]:
        await predictor.answer(GUARDED, read(x(0)), Deadline(20))
        link.hold()
        first = asyncio.create_task(predictor.answer(GUARDED, read(x(1)), Deadline(20)))
        await asyncio.sleep(0.1)
        waiting = [
            asyncio.create_task(predictor.answer(GUARDED, read(x(i)), Deadline(seconds)))
            for i, seconds in ((2, 20), (3, 0.2), (4, 20), (5, 20))
        ]
        await asyncio.sleep(0.1)
        waiting[2].cancel()
        await asyncio.sleep(0.3)
        link.release()
        return await asyncio.gather(first, *waiting, return_exceptions=True)

    try:
        (first, second, third, fourth, fifth), _ = run(link.address, some_give_up)
    finally:
        link.close()
    assert isinstance(third, DeadlineExceededError)
    assert isinstance(fourth, asyncio.CancelledError)
    for i, reply in ((1, first), (2, second), (5, fifth)):
        assert reply[1].outputs["y"].tolist() == [2.0 * i]


def test_nobody_is_told_of_a_version_by_another_s_schema(tmp_path: Path, starter: Starter) -> None:
    affine.publish(tmp_path / "m", 1)
    server = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    processes.wait_for(lambda: processes.is_serving(server.address), "the model is loaded")
    seen: list[int] = []

    def by_version(schema: Schema) -> Call:
        seen.append(schema.version)
        return x(float(schema.version))

    async def until_version_2(predictor: Asker) -> None:
        target = Target("m")
        version = 1
        while version == 1:
            _, prediction = await predictor.answer(target, by_version, Deadline(20))
            version = prediction.version
            # The reader gave the version's own number: 10 x + version.
            assert prediction.outputs["y"].tolist() == [10.0 * version + version]
            if not (tmp_path / "m/2").exists():
                affine.publish(tmp_path / "m", 2)

    run(server.address, until_version_2)
    assert set(seen) == {1, 2}


def test_a_new_version_is_learnt_without_a_request_that_shows_it(
    tmp_path: Path, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.serving.schema_cache.REFRESH_SECONDS", 0.2)
    affine.publish(tmp_path / "m", 1)
    server = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    processes.wait_for(lambda: processes.is_serving(server.address), "the model is loaded")

    async def watch() -> None:
        async with (
            AsyncServingClient(server.address) as connection,
            Predictor(connection) as predictor,
        ):
            assert (await predictor.schema(Target("m"), Deadline(20))).version == 1
            affine.publish(tmp_path / "m", 2)
            while (await predictor.schema(Target("m"), Deadline(20))).version == 1:
                await asyncio.sleep(0.1)

    asyncio.run(watch())


def test_requests_that_are_just_wrong_do_not_make_the_client_ask_on_and_on(
    guarded_server: str,
) -> None:
    def refuse(schema: Schema) -> Call:
        raise ClientError("wrong")

    async def ask_wrongly(predictor: Asker) -> None:
        for _ in range(50):
            with pytest.raises(ClientError, match="wrong"):
                await predictor.answer(GUARDED, refuse, Deadline(20))

    _, made = run(guarded_server, ask_wrongly)
    assert made["GetModelMetadata"] <= 2


def test_all_who_want_to_know_a_model_ask_once(guarded_server: str) -> None:
    async def ask_at_once(predictor: Asker) -> None:
        asked = (predictor.schema(GUARDED, Deadline(20)) for _ in range(50))
        assert len(set(map(id, await asyncio.gather(*asked)))) == 1

    _, made = run(guarded_server, ask_at_once)
    assert made["GetModelMetadata"] == 1


def test_a_model_that_is_not_there_is_asked_for_each_time(guarded_server: str) -> None:
    async def ask_twice(predictor: Asker) -> None:
        for _ in range(2):
            with pytest.raises(ClientError) as error:
                await predictor.answer(Target("nosuch"), read(x(1)), Deadline(20))
            assert error.value.status == 404

    _, made = run(guarded_server, ask_twice)
    assert made["GetModelMetadata"] == 2
