"""Batching: concurrent requests share batches, and each gets its own results."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.batching.batching_session import MAX_QUEUES
from tests.contract.recordings import CORPUS
from tests.serving.conftest import FailedStart, Serve, model_flags
from tests.support import guarded
from tests.support.affine import publish
from tests.support.caller import Caller, raises_rpc_error, y_and_version
from tests.support.processes import wait_for

Batching = Callable[..., Caller]


class Counting(tf.Module):
    """Returns the size and the width of its batch with each row."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        size = tf.shape(x)
        batch_size = tf.fill([size[0]], size[0])
        return {
            "total": tf.reduce_sum(x, axis=1),
            "batch_size": batch_size,
            "width": batch_size * 0 + size[1],
        }


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of a Counting model. Do not write to it."""
    path = tmp_path_factory.mktemp("counting") / "m"
    module = Counting()
    tf.saved_model.save(module, str(path / "1"), signatures=module.serve)
    return path


@pytest.fixture
def batching(tmp_path: Path, serve: Serve) -> Batching:
    """Start a server with batching for a base path, with batching parameters in text format."""

    def batching(base_path: Path, parameters: str, *flags: str) -> Caller:
        file = tmp_path / "batching.config"
        file.write_text(parameters)
        parameters_flag = f"--batching_parameters_file={file}"
        return serve(*model_flags(base_path), "--enable_batching", parameters_flag, *flags)

    return batching


def predict(server: Caller, rows: Any, **options: Any) -> dict[str, Any]:
    response = server.predict("m", {"x": np.asarray(rows, np.float32)}, **options)
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def test_concurrent_callers_share_batches_and_get_their_own_rows(
    counting: Path, batching: Batching
) -> None:
    server = batching(
        counting,
        "max_batch_size { value: 64 } batch_timeout_micros { value: 20000 } "
        "allowed_batch_sizes: 16 allowed_batch_sizes: 64 num_batch_threads { value: 1 } "
        "max_enqueued_batches { value: 1000 }",
    )
    generator = np.random.default_rng(0)
    requests = [generator.normal(size=(generator.integers(1, 20), 3)) for _ in range(400)]
    with ThreadPoolExecutor(32) as pool:
        responses = list(pool.map(lambda rows: predict(server, rows), requests))
    for rows, response in zip(requests, responses, strict=True):
        np.testing.assert_allclose(
            response["total"], rows.astype(np.float32).sum(axis=1), rtol=1e-4, atol=1e-5
        )
        assert set(response["batch_size"].tolist()) <= {16, 64}  # with padding
    full_batches = sum(len(rows) for rows in requests) / 64
    batches = sum((1 / response["batch_size"]).sum() for response in responses)
    assert batches < 2 * full_batches, "most batches are nearly empty"


def test_variable_length_inputs_are_padded_with_their_first_value(
    counting: Path, batching: Batching
) -> None:
    parameters = "batch_timeout_micros { value: 2000000 } max_batch_size { value: 3 }"
    server = batching(counting, f"{parameters} pad_variable_length_inputs: true")
    with ThreadPoolExecutor(2) as pool:
        short, long = pool.map(
            lambda rows: predict(server, rows), ([[5, 2], [1, 1]], [[1, 2, 3, 4]])
        )
    assert short["total"].tolist() == [5 + 2 + 5 + 5, 1 + 1 + 5 + 5]
    assert long["total"].tolist() == [10]
    assert {*short["width"], *long["width"]} == {4}


def test_empty_tensor_fails_its_padded_batch(counting: Path, batching: Batching) -> None:
    parameters = "batch_timeout_micros { value: 2000000 } max_batch_size { value: 2 }"
    server = batching(counting, f"{parameters} pad_variable_length_inputs: true")

    def predict_refused(rows: Any) -> None:
        with raises_rpc_error(
            "INVALID_ARGUMENT", "Got empty tensor in batch of non-empty tensors."
        ):
            predict(server, rows)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(predict_refused, (np.zeros((1, 0)), [[1, 2]])))


def test_variable_length_strings_are_padded(batching: Batching) -> None:
    server = batching(
        CORPUS / "models" / "shapes",
        "batch_timeout_micros { value: 2000000 } max_batch_size { value: 3 } "
        "pad_variable_length_inputs: true",
    )

    def echo(words: list[list[str]]) -> Any:
        response = server.predict("shapes", {"text": words}, signature="string_matrix")
        return tf.make_ndarray(response.outputs["text"]).tolist()

    with ThreadPoolExecutor(2) as pool:
        short, long = pool.map(echo, ([["a\0"]], [["b", "c"], ["d", "é"]]))
    assert short == [[b"a\0", b"a\0"]]
    assert long == [[b"b", b"c"], [b"d", "é".encode()]]


def test_variable_length_inputs_fail_without_padding(counting: Path, batching: Batching) -> None:
    server = batching(
        counting, "batch_timeout_micros { value: 2000000 } max_batch_size { value: 2 }"
    )

    def predict_error(rows: Any) -> Any:
        with pytest.raises(grpc.RpcError) as error:
            predict(server, rows)
        return error.value

    with ThreadPoolExecutor(2) as pool:
        for error in pool.map(predict_error, ([[1, 2]], [[1, 2, 3, 4]])):
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert error.details() == (
                "Tensors with name 'serving_default_x:0' from different tasks have different "
                "shapes and padding is turned off. Set pad_variable_length_inputs to true, or "
                "ensure that all tensors with the same name have equal dimensions starting with "
                "the first dim."
            )


def test_large_request_is_split_if_splitting_is_enabled(counting: Path, batching: Batching) -> None:
    server = batching(
        counting,
        "max_batch_size { value: 100 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 8 }",
    )
    rows = np.arange(60.0).reshape(20, 3)
    response = predict(server, rows)
    np.testing.assert_allclose(response["total"], rows.sum(axis=1))
    assert response["batch_size"].max() <= 8
    with raises_rpc_error(
        "INVALID_ARGUMENT", "Task size 101 is larger than maximum input batch size 100"
    ):
        predict(server, np.zeros((101, 3)))


def test_large_request_is_rejected_without_splitting(counting: Path, batching: Batching) -> None:
    server = batching(counting, "max_batch_size { value: 8 }")
    with raises_rpc_error(
        "INVALID_ARGUMENT", "Task size 9 is larger than maximum input batch size 8"
    ):
        predict(server, np.zeros((9, 1)))
    assert predict(server, np.zeros((8, 1)))["batch_size"].tolist() == [8] * 8


def test_full_queue_rejects_new_requests_and_answers_queued_ones(
    base_path: Path, batching: Batching
) -> None:
    publish(base_path, 1, seconds=0.5)
    server = batching(
        base_path,
        "max_batch_size { value: 1 } max_enqueued_batches { value: 2 } "
        "num_batch_threads { value: 1 }",
    )

    def outcome(_: int) -> Any:
        try:
            return server.predict_x()[0]
        except grpc.RpcError as error:
            return error.code(), error.details()

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, range(8)))
    answers = outcomes.count([11.0])
    queue_full = (
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently 2 "
        "batches enqueued and max_enqueued_batches is 2",
    )
    assert 2 <= answers < 8
    assert outcomes.count(queue_full) == 8 - answers
    assert server.predict_x() == ([11.0], 1)  # the queue is empty again


def test_requests_for_the_same_outputs_share_batches(counting: Path, batching: Batching) -> None:
    server = batching(
        counting, "batch_timeout_micros { value: 2000000 } max_batch_size { value: 2 }"
    )
    selections = (["batch_size"], ["batch_size"], ["batch_size", "width"], ["width", "batch_size"])
    with ThreadPoolExecutor(4) as pool:
        responses = list(
            pool.map(lambda names: predict(server, [[1.0]], outputs=names), selections)
        )
    assert [response["batch_size"].tolist() for response in responses] == [[2]] * 4
    assert [len(response) for response in responses] == [1, 1, 2, 2]
    with raises_rpc_error(
        "INVALID_ARGUMENT", "Task size 3 is larger than maximum input batch size 2"
    ):
        predict(server, np.zeros((3, 1)), outputs=["total"])


def test_requests_beyond_the_queue_limit_are_computed_alone(
    tmp_path: Path, batching: Batching
) -> None:
    """Each subset of the outputs needs a queue; only batches of a queue are padded."""

    class Wide(tf.Module):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            size = tf.shape(x)
            outputs = {f"y{times}": x * float(times) for times in range(10)}
            return {**outputs, "batch_size": tf.fill(size, size[0])}

    module = Wide()
    tf.saved_model.save(module, str(tmp_path / "m" / "1"), signatures=module.serve)
    server = batching(tmp_path / "m", "max_batch_size { value: 8 } allowed_batch_sizes: 8")
    for subset in range(1, 200):
        names = [f"y{times}" for times in range(10) if subset >> times & 1]
        response = predict(server, [2.0], outputs=[*names, "batch_size"])
        assert {name: response[name].tolist() for name in response} == {
            **{name: [2.0 * int(name[1])] for name in names},
            "batch_size": [8 if subset <= MAX_QUEUES else 1],
        }


@pytest.mark.parametrize(
    ("signature", "inputs", "code", "text"),
    [
        ("constant", {}, "INVALID_ARGUMENT", "Batching Run() must have at least one input tensor"),
        (
            "scalar_out",
            {"x": [1.0]},
            "FAILED_PRECONDITION",
            "Batched output tensor has 0 dimensions",
        ),
        (
            "scalar",
            {"x": 1.0},
            "INVALID_ARGUMENT",
            "Batching Run() input tensors must have at least one dimension",
        ),
    ],
)
def test_unbatchable_requests_are_rejected(
    batching: Batching, signature: str, inputs: Any, code: str, text: str
) -> None:
    server = batching(CORPUS / "models" / "shapes", "max_batch_size { value: 8 }")
    with raises_rpc_error(code, text):
        server.predict("shapes", inputs, signature=signature)


def test_request_without_rows_returns_no_rows(counting: Path, batching: Batching) -> None:
    server = batching(counting, "max_batch_size { value: 8 } allowed_batch_sizes: 8")
    assert predict(server, np.zeros((0, 3)))["total"].shape == (0,)
    assert predict(server, [[1, 2, 3]])["total"] == [6]


def test_failed_batch_does_not_affect_later_batches(base_path: Path, batching: Batching) -> None:
    guarded.publish(base_path)
    server = batching(
        base_path, "max_batch_size { value: 2 } batch_timeout_micros { value: 500000 }"
    )

    def status_code(x: float) -> Any:
        try:
            predict(server, [x])
        except grpc.RpcError as error:
            return error.code()
        return None

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(status_code, [1.0, -1.0])) == [grpc.StatusCode.INVALID_ARGUMENT] * 2
        assert list(pool.map(status_code, [1.0, 2.0])) == [None, None]


def test_unloading_version_answers_queued_requests(base_path: Path, batching: Batching) -> None:
    publish(base_path, 1)
    server = batching(base_path, "batch_timeout_micros { value: 1500000 }")
    call = server.submit_x()
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2")
    assert y_and_version(call.result()) == ([11.0], 1)
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
    assert server.predict_x() == ([12.0], 2)


def test_only_versions_with_their_own_parameters_are_batched(
    counting: Path, base_path: Path, batching: Batching
) -> None:
    version = base_path.parent / "version"
    version.mkdir()
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 3 }")
    for entry in (counting / "1").iterdir():
        (version / entry.name).symlink_to(entry)
    version.rename(base_path / "1")
    per_model = "--enable_per_model_batching_parameters"
    server = batching(base_path, "max_batch_size { value: 100 }", per_model)
    assert len(predict(server, np.zeros((3, 1)))["total"]) == 3
    with raises_rpc_error("INVALID_ARGUMENT", "larger than maximum input batch size 3"):
        predict(server, np.zeros((4, 1)))
    (base_path / "2").symlink_to(counting / "1")
    wait_for(lambda: server.is_available(2), "version 2, which has no parameters")
    assert predict(server, np.zeros((200, 1)))["batch_size"].tolist() == [200] * 200


def test_version_with_invalid_parameters_fails_to_load(base_path: Path, batching: Batching) -> None:
    publish(base_path, 1)
    server = batching(base_path, "", "--enable_per_model_batching_parameters")
    version = publish(base_path.parent / "hidden", 2)
    (version / "batching_params.pbtxt").write_text("max_batch_size: nonsense")
    version.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    status = server.statuses()[2].status
    assert status.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "batching_params.pbtxt" in status.error_message
    assert server.predict_x() == ([11.0], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 3", "--batching_parameters_file {file}: 1:"),
        ("nonsense { value: 3 }", 'has no field named "nonsense"'),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
    ],
)
def test_invalid_parameters_are_reported_in_one_line(
    base_path: Path, failed_start: FailedStart, text: str, message: str
) -> None:
    file = base_path.parent / "batching.config"
    file.write_text(text)
    flags = ("--enable_batching", f"--batching_parameters_file={file}")
    (line,) = failed_start(*model_flags(base_path), *flags).splitlines()
    assert line.startswith("Error: ")
    assert message.format(file=file) in line


@pytest.mark.parametrize(
    "text",
    [
        "max_enqueued_batches { value: 0 }",
        "max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 8]",
        "max_batch_size { value: 8 } max_execution_batch_size { value: 0 }",
        "max_batch_size { value: 8 } max_execution_batch_size { value: 4 } "
        "enable_large_batch_splitting { value: true } allowed_batch_sizes: [2, 8]",
        "max_batch_size { value: 8 } max_execution_batch_size { value: 4 } "
        "enable_large_batch_splitting { value: true } allowed_batch_sizes: [2, 4]",
    ],
)
def test_accepts_parameters_that_tensorflow_serving_accepts(
    counting: Path, batching: Batching, text: str
) -> None:
    server = batching(counting, text)
    assert predict(server, np.ones((8, 2)))["total"].tolist() == [2.0] * 8
