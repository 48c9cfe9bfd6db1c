"""Requests that wait together are computed together, and nobody notices but by the speed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from client import ClientError, ModelServer
from serving.batch_scheduler import BatchingParameters, BatchScheduler, Queue, Task
from serving.config_messages import BatchingParameters as Message
from serving.errors import ServingError
from tests.conftest import Starter


class Counting(tf.Module):
    """Tells with each row how many rows were computed together, and how wide they were."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        size = tf.shape(x)
        together = tf.fill([size[0]], size[0])
        return {
            "total": tf.reduce_sum(x, axis=1),
            "together": together,
            "width": together * 0 + size[1],
        }


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counting")
    module = Counting()
    tf.saved_model.save(module, str(path / "1"), signatures=module.serve)
    return path


def start(starter: Starter, base_path: Path, parameters: str, *flags: str) -> str:
    file = starter.folder / "batching.config"
    file.write_text(parameters)
    running = starter.model_server(
        "--model_name=m",
        f"--model_base_path={base_path}",
        "--enable_batching",
        f"--batching_parameters_file={file}",
        *flags,
    )
    return running.address


def ask(server: ModelServer, rows: Any) -> Any:
    return server.predict("m", {"x": np.asarray(rows, np.float32)}, timeout=30).outputs


def test_callers_at_once_share_batches_and_get_their_own_rows(
    base_path: Path, starter: Starter
) -> None:
    address = start(
        starter,
        base_path,
        "max_batch_size { value: 64 } batch_timeout_micros { value: 20000 } "
        "allowed_batch_sizes: 16 allowed_batch_sizes: 64 num_batch_threads { value: 1 } "
        "max_enqueued_batches { value: 1000 }",
    )
    generator = np.random.default_rng(0)
    requests = [generator.normal(size=(generator.integers(1, 5), 3)) for _ in range(200)]
    with ModelServer(address) as server, ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda rows: ask(server, rows), requests))
    for rows, reply in zip(requests, replies, strict=True):
        np.testing.assert_allclose(
            reply["total"], rows.astype(np.float32).sum(axis=1), rtol=1e-4, atol=1e-5
        )
        assert set(reply["together"].tolist()) <= {16, 64}  # the padding is nobody's
    assert any(
        reply["together"][0] > len(rows) for rows, reply in zip(requests, replies, strict=True)
    )


def test_rows_of_unequal_length_are_padded_where_that_is_wanted(
    base_path: Path, starter: Starter
) -> None:
    parameters = "batch_timeout_micros { value: 300000 } max_batch_size { value: 2 }"
    address = start(starter, base_path, f"{parameters} pad_variable_length_inputs: true")
    with ModelServer(address) as server, ThreadPoolExecutor(2) as pool:
        short, long = pool.map(lambda rows: ask(server, rows), ([[1, 2]], [[1, 2, 3, 4]]))
    assert (short["total"], long["total"]) == (3, 10)
    assert short["width"] == long["width"] == 4


def test_without_padding_rows_of_unequal_length_do_not_go_together(
    base_path: Path, starter: Starter
) -> None:
    address = start(
        starter, base_path, "batch_timeout_micros { value: 300000 } max_batch_size { value: 2 }"
    )

    def code(rows: Any) -> Any:
        try:
            return ask(server, rows)
        except ClientError as error:
            return error.message

    with ModelServer(address) as server, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(code, ([[1, 2]], [[1, 2, 3, 4]])))
    assert all("have different shapes and padding is turned off" in answer for answer in answers)


def test_a_large_request_goes_into_several_batches_where_that_is_allowed(
    base_path: Path, starter: Starter
) -> None:
    address = start(
        starter,
        base_path,
        "max_batch_size { value: 100 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 8 }",
    )
    rows = np.arange(60.0).reshape(20, 3)
    with ModelServer(address) as server:
        reply = ask(server, rows)
        np.testing.assert_allclose(reply["total"], rows.sum(axis=1))
        assert reply["together"].max() <= 8
        with pytest.raises(ClientError, match="Task size 101 is larger than maximum input batch"):
            ask(server, np.zeros((101, 3)))


def test_a_version_may_bring_its_own_parameters(base_path: Path, starter: Starter) -> None:
    own = base_path / "1" / "batching_params.pbtxt"
    own.write_text("max_batch_size { value: 3 }")
    try:
        address = start(
            starter,
            base_path,
            "max_batch_size { value: 100 }",
            "--enable_per_model_batching_parameters",
        )
        with ModelServer(address) as server:
            ask(server, np.zeros((3, 1)))
            with pytest.raises(ClientError, match="larger than maximum input batch size 3"):
                ask(server, np.zeros((4, 1)))
    finally:
        own.unlink()


def parameters(**values: Any) -> BatchingParameters:
    message = Message(allowed_batch_sizes=values.pop("allowed_batch_sizes", []))
    for name, value in values.items():
        getattr(message, name).value = value
    return BatchingParameters.of(message)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be at least 1; was 0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be at least 0; was -1"),
        ({"allowed_batch_sizes": [4, 2]}, "must be monotonically increasing"),
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
    ],
)
def test_parameters_that_contradict_one_another_are_refused(
    values: dict[str, Any], text: str
) -> None:
    with pytest.raises(ServingError, match=text):
        parameters(**values)


def test_a_full_queue_refuses_with_unavailable() -> None:
    queue = Queue(parameters(max_batch_size=2, max_enqueued_batches=2), lambda tasks: None)
    for _ in range(4):
        queue.check_room(1)
        queue.add([Task([], 1)])
    with pytest.raises(ServingError, match="currently 2 batches enqueued") as error:
        queue.check_room(1)
    assert error.value.code is grpc.StatusCode.UNAVAILABLE


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    most=st.integers(9, 20),
    splitting=st.booleans(),
)
def test_every_row_is_computed_once_and_comes_back_to_its_request(
    sizes: list[int], most: int, splitting: bool
) -> None:
    values = {"max_batch_size": most, "max_enqueued_batches": 1000}
    if splitting:
        values |= {"enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    largest: list[int] = []

    def process(tasks: Any) -> None:
        largest.append(sum(task.rows for task in tasks))
        for task in tasks:
            task.outputs.set_result([task.arrays[0] * 2])

    scheduler = BatchScheduler(threads=2)
    queue = scheduler.add_queue(parameters(**values), process)
    starts = np.cumsum([0, *sizes])
    rows = [np.arange(a, a + n) for a, n in zip(starts, sizes, strict=False)]
    scheduled = [scheduler.schedule(queue, [row], len(row)) for row in rows]
    for row, tasks in zip(rows, scheduled, strict=True):
        parts = [task.outputs.result(5)[0] for task in tasks]
        np.testing.assert_array_equal(np.concatenate(parts), row * 2)
    assert max(largest) <= (4 if splitting else most)
