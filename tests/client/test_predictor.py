"""The predictor with a real model server: shared calls and version changes."""

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
from tests.support.together import BatchedPredictor

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
    server: str, work: Callable[[BatchedPredictor], Awaitable[Any]], **limits: Any
) -> tuple[Any, Counter[str]]:
    """Run `work` with a predictor; return its result and the number of calls by method."""
    calls: Counter[str] = Counter()

    async def main() -> Any:
        observe = lambda rpc, code, seconds: calls.update([rpc])  # noqa: E731
        async with AsyncServingClient(server, observe=observe) as connection:
            predictor = Predictor(connection, Limits(**limits))
            return await work(BatchedPredictor(predictor, Limits(**limits)))

    return asyncio.run(main()), calls


async def predict_all(predictor: BatchedPredictor, target: Target, *calls: Call) -> list[Any]:
    """Send all requests at once and return their predictions or errors."""
    predictions = (predictor.predict(target, read(call), Deadline(20)) for call in calls)
    results = await asyncio.gather(*predictions, return_exceptions=True)
    return [result[1] if isinstance(result, tuple) else result for result in results]


def test_concurrent_requests_share_calls_and_get_their_own_rows(guarded_server: str) -> None:
    calls = [x(*(100.0 * i + j for j in range(1 + i % 3))) for i in range(200)]
    results, counts = run(guarded_server, lambda p: predict_all(p, GUARDED, *calls))
    for call, result in zip(calls, results, strict=True):
        expected = call.inputs["x"]
        np.testing.assert_array_equal(result.outputs["y"], 2 * expected)
        assert list(result.outputs["text"]) == [b"%.0f" % value for value in expected]
    assert counts["Predict"] <= 3
    assert counts["GetModelMetadata"] == 1


def test_row_rejected_by_the_graph_fails_alone(guarded_server: str) -> None:
    calls = [x(float(i) if i != 13 else -1.0) for i in range(40)]
    results, counts = run(guarded_server, lambda p: predict_all(p, GUARDED, *calls))
    assert isinstance(results[13], InvalidArgumentError)
    assert "x is negative" in results[13].message
    valid = results[:13] + results[14:]
    assert all(isinstance(result, Prediction) for result in valid)
    assert [float(result.outputs["y"][0]) for result in valid] == [
        2.0 * i for i in range(40) if i != 13
    ]
    assert counts["Predict"] <= 2 + 2 * 6


def test_requests_are_sent_separately_if_outputs_are_not_rows(guarded_server: str) -> None:
    calls = [x(1, 1, 2, signature_name="distinct"), x(2, 3, signature_name="distinct")] * 4

    async def predict_twice(predictor: BatchedPredictor) -> list[Any]:
        first = await predict_all(predictor, GUARDED, *calls)
        return first + await predict_all(predictor, GUARDED, *calls)

    results, counts = run(guarded_server, predict_twice)
    assert [result.outputs["y"].tolist() for result in results] == [[1, 2], [2, 3]] * 8
    assert counts["Predict"] == 1 + 8 + 8


def test_requests_of_mixed_shapes_and_types_get_the_same_results_as_alone(
    guarded_server: str,
) -> None:
    # The REST dialect may omit a dimension of 1: [3] for [n, 1].
    rest_rows: list[Any] = [[[1.5], [2], [3]], [4, 5, 6], [[7]], [8], [9], [[10], [11]], [[]], []]
    bodies = [orjson.dumps({"signature_name": "column", "inputs": rows}) for rows in rest_rows]
    arrays: list[Any] = [
        np.ones([2, 1], np.float64),
        np.ones([2, 2], np.float32),
        np.ones([1, 1, 1], np.float32),
        np.array([[1]], np.int64),
    ]
    reads: list[Read] = [partial(read_rest, body) for body in bodies]
    reads += [read(Call("column", {"x": array})) for array in arrays]

    async def predict_reads(predictor: BatchedPredictor, reads: Sequence[Read]) -> list[Any]:
        predictions = (predictor.predict(GUARDED, read, Deadline(20)) for read in reads)
        return await asyncio.gather(*predictions, return_exceptions=True)

    async def one_by_one(predictor: BatchedPredictor) -> list[Any]:
        return [outcome for read in reads for outcome in await predict_reads(predictor, [read])]

    alone, counts_alone = run(guarded_server, one_by_one)
    together, counts = run(guarded_server, lambda predictor: predict_reads(predictor, reads * 20))
    for actual, expected in zip(together, alone * 20, strict=True):
        if isinstance(expected, ClientError):
            assert isinstance(actual, ClientError)
            assert (actual.status, actual.message) == (expected.status, expected.message)
            continue
        y = expected[1].outputs["y"]
        assert actual[1].outputs["y"].shape == y.shape
        np.testing.assert_array_equal(actual[1].outputs["y"], y)
    for rows, outcome in zip(rest_rows[:6], alone, strict=False):
        np.testing.assert_array_equal(np.ravel(outcome[1].outputs["y"]), 2 * np.ravel(rows))
    assert counts["Predict"] < 5 * counts_alone["Predict"]  # equal shapes and types share calls


def test_limit_of_one_row_sends_a_call_for_each_request(guarded_server: str) -> None:
    results, counts = run(
        guarded_server, lambda p: predict_all(p, GUARDED, *(x(i) for i in range(10))), rows=1
    )
    assert [float(result.outputs["y"][0]) for result in results] == [2.0 * i for i in range(10)]
    assert counts["Predict"] == 10


def test_deadline_or_cancellation_affects_only_its_request(guarded_server: str) -> None:
    link = Link(guarded_server)

    async def expire_and_cancel(predictor: BatchedPredictor) -> list[Any]:
        await predictor.predict(GUARDED, read(x(0)), Deadline(20))
        link.hold()
        first = asyncio.create_task(predictor.predict(GUARDED, read(x(1)), Deadline(20)))
        await asyncio.sleep(0.1)
        waiting = [
            asyncio.create_task(predictor.predict(GUARDED, read(x(i)), Deadline(seconds)))
            for i, seconds in ((2, 20), (3, 0.2), (4, 20), (5, 20))
        ]
        await asyncio.sleep(0.1)
        waiting[2].cancel()
        await asyncio.sleep(0.3)
        link.release()
        return await asyncio.gather(first, *waiting, return_exceptions=True)

    try:
        (first, second, third, fourth, fifth), _ = run(link.address, expire_and_cancel)
    finally:
        link.close()
    assert isinstance(third, DeadlineExceededError)
    assert isinstance(fourth, asyncio.CancelledError)
    for i, result in ((1, first), (2, second), (5, fifth)):
        assert result[1].outputs["y"].tolist() == [2.0 * i]


def test_requests_are_decoded_with_the_schema_of_the_answering_version(
    tmp_path: Path, starter: Starter
) -> None:
    affine.publish(tmp_path / "m", 1)
    server = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    processes.wait_for(lambda: processes.is_serving(server.address), "the model is loaded")
    schema_versions: list[int] = []

    def encode_version(schema: Schema) -> Call:
        schema_versions.append(schema.version)
        return x(float(schema.version))

    async def predict_until_version_2(predictor: BatchedPredictor) -> None:
        target = Target("m")
        version = 1
        while version == 1:
            _, prediction = await predictor.predict(target, encode_version, Deadline(20))
            version = prediction.version
            # The input is the schema's version, and y = 10 x + version.
            assert prediction.outputs["y"].tolist() == [10.0 * version + version]
            if not (tmp_path / "m/2").exists():
                affine.publish(tmp_path / "m", 2)

    run(server.address, predict_until_version_2)
    assert set(schema_versions) == {1, 2}


def test_new_version_is_discovered_without_requests(
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


def test_invalid_requests_do_not_reload_the_schema_each_time(guarded_server: str) -> None:
    def reject(schema: Schema) -> Call:
        raise ClientError("wrong")

    async def send_invalid(predictor: BatchedPredictor) -> None:
        for _ in range(50):
            with pytest.raises(ClientError, match="wrong"):
                await predictor.predict(GUARDED, reject, Deadline(20))

    _, counts = run(guarded_server, send_invalid)
    assert counts["GetModelMetadata"] <= 2


def test_concurrent_schema_loads_share_one_call(guarded_server: str) -> None:
    async def load_at_once(predictor: BatchedPredictor) -> None:
        loads = (predictor.schema(GUARDED, Deadline(20)) for _ in range(50))
        assert len(set(map(id, await asyncio.gather(*loads)))) == 1

    _, counts = run(guarded_server, load_at_once)
    assert counts["GetModelMetadata"] == 1


def test_missing_model_is_requested_each_time(guarded_server: str) -> None:
    async def predict_twice(predictor: BatchedPredictor) -> None:
        for _ in range(2):
            with pytest.raises(ClientError) as error:
                await predictor.predict(Target("nosuch"), read(x(1)), Deadline(20))
            assert error.value.status == 404

    _, counts = run(guarded_server, predict_twice)
    assert counts["GetModelMetadata"] == 2
