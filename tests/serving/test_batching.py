"""Batching: concurrent requests share batches, and each gets its own result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf

from tests.contract.recordings import CORPUS
from tests.serving.conftest import Fails, Serve, flags_of
from tests.support import guarded
from tests.support.affine import publish
from tests.support.caller import Caller, refused
from tests.support.processes import wait_for

Batching = Callable[..., Caller]


class Counting(tf.Module):
    """Returns with each row the number of rows in its batch, and their width."""

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
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of that model. Do not write to it."""
    path = tmp_path_factory.mktemp("counting") / "m"
    module = Counting()
    tf.saved_model.save(module, str(path / "1"), signatures=module.serve)
    return path


@pytest.fixture
def batching(tmp_path: Path, serve: Serve) -> Batching:
    """Start a server with batching, for a base path and with parameters."""

    def batching(base_path: Path, parameters: str, *flags: str) -> Caller:
        file = tmp_path / "batching.config"
        file.write_text(parameters)
        given = (f"--batching_parameters_file={file}", *flags)
        return serve(*flags_of(base_path), "--enable_batching", *given)

    return batching


def ask(server: Caller, rows: Any, **asked: Any) -> dict[str, Any]:
    reply = server.predict("m", {"x": np.asarray(rows, np.float32)}, **asked)
    return {name: tf.make_ndarray(proto) for name, proto in reply.outputs.items()}


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
        replies = list(pool.map(lambda rows: ask(server, rows), requests))
    for rows, reply in zip(requests, replies, strict=True):
        np.testing.assert_allclose(
            reply["total"], rows.astype(np.float32).sum(axis=1), rtol=1e-4, atol=1e-5
        )
        assert set(reply["together"].tolist()) <= {16, 64}  # with padding
    shared = sum(len(rows) for rows in requests) / 64
    batches = sum((1 / reply["together"]).sum() for reply in replies)
    assert batches < 2 * shared, "most batches are nearly empty"


def test_variable_length_inputs_are_padded_with_their_first_value(
    counting: Path, batching: Batching
) -> None:
    parameters = "batch_timeout_micros { value: 2000000 } max_batch_size { value: 3 }"
    server = batching(counting, f"{parameters} pad_variable_length_inputs: true")
    with ThreadPoolExecutor(2) as pool:
        short, long = pool.map(lambda rows: ask(server, rows), ([[5, 2], [1, 1]], [[1, 2, 3, 4]]))
    assert short["total"].tolist() == [5 + 2 + 5 + 5, 1 + 1 + 5 + 5]
    assert long["total"].tolist() == [10]
    assert {*short["width"], *long["width"]} == {4}


def test_empty_tensor_fails_its_padded_batch(counting: Path, batching: Batching) -> None:
    parameters = "batch_timeout_micros { value: 2000000 } max_batch_size { value: 2 }"
    server = batching(counting, f"{parameters} pad_variable_length_inputs: true")

    def refusal(rows: Any) -> None:
        with refused("INVALID_ARGUMENT", "Got empty tensor in batch of non-empty tensors."):
            ask(server, rows)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(refusal, (np.zeros((1, 0)), [[1, 2]])))


def test_variable_length_strings_are_padded(batching: Batching) -> None:
    server = batching(
        CORPUS / "models" / "shapes",
        "batch_timeout_micros { value: 2000000 } max_batch_size { value: 3 } "
        "pad_variable_length_inputs: true",
    )

    def echo(words: list[list[str]]) -> Any:
        reply = server.predict("shapes", {"text": words}, signature="string_matrix")
        return tf.make_ndarray(reply.outputs["text"]).tolist()

    with ThreadPoolExecutor(2) as pool:
        short, long = pool.map(echo, ([["a\0"]], [["b", "c"], ["d", "é"]]))
    assert short == [[b"a\0", b"a\0"]]
    assert long == [[b"b", b"c"], [b"d", "é".encode()]]


def test_variable_length_inputs_fail_without_padding(counting: Path, batching: Batching) -> None:
    server = batching(
        counting, "batch_timeout_micros { value: 2000000 } max_batch_size { value: 2 }"
    )

    def refusal(rows: Any) -> Any:
        with pytest.raises(grpc.RpcError) as error:
            ask(server, rows)
        return error.value

    with ThreadPoolExecutor(2) as pool:
        for error in pool.map(refusal, ([[1, 2]], [[1, 2, 3, 4]])):
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
    reply = ask(server, rows)
    np.testing.assert_allclose(reply["total"], rows.sum(axis=1))
    assert reply["together"].max() <= 8
    with refused("INVALID_ARGUMENT", "Task size 101 is larger than maximum input batch size 100"):
        ask(server, np.zeros((101, 3)))


def test_large_request_is_rejected_without_splitting(counting: Path, batching: Batching) -> None:
    server = batching(counting, "max_batch_size { value: 8 }")
    with refused("INVALID_ARGUMENT", "Task size 9 is larger than maximum input batch size 8"):
        ask(server, np.zeros((9, 1)))
    assert ask(server, np.zeros((8, 1)))["together"].tolist() == [8] * 8


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
            return server.ask()[0]
        except grpc.RpcError as error:
            return error.code(), error.details()

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, range(8)))
    answered = [one for one in outcomes if one == [11.0]]
    full = (
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently 2 "
        "batches enqueued and max_enqueued_batches is 2",
    )
    assert len(answered) >= 2
    assert [one for one in outcomes if one != [11.0]] == [full] * (8 - len(answered))
    assert len(answered) < 8
    assert server.ask() == ([11.0], 1)  # the queue has emptied


def test_requests_for_the_same_outputs_share_batches(counting: Path, batching: Batching) -> None:
    server = batching(
        counting, "batch_timeout_micros { value: 2000000 } max_batch_size { value: 2 }"
    )
    wanted = (["together"], ["together"], ["together", "width"], ["width", "together"])
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda names: ask(server, [[1.0]], outputs=names), wanted))
    assert [reply["together"].tolist() for reply in replies] == [[2]] * 4
    assert [len(reply) for reply in replies] == [1, 1, 2, 2]
    with refused("INVALID_ARGUMENT", "Task size 3 is larger than maximum input batch size 2"):
        ask(server, np.zeros((3, 1)), outputs=["total"])


def test_requests_beyond_the_queue_limit_are_answered(tmp_path: Path, batching: Batching) -> None:
    """Ten outputs have a thousand subsets; most are computed alone, all are answered."""

    class Wide(tf.Module):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {f"y{times}": x * float(times) for times in range(10)}

    module = Wide()
    tf.saved_model.save(module, str(tmp_path / "m" / "1"), signatures=module.serve)
    server = batching(tmp_path / "m", "max_batch_size { value: 8 } allowed_batch_sizes: 8")
    for choice in range(1, 200):
        names = [f"y{times}" for times in range(10) if choice >> times & 1]
        reply = ask(server, [2.0], outputs=names)
        assert {name: reply[name].tolist() for name in reply} == {
            name: [2.0 * int(name[1])] for name in names
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
    with refused(code, text):
        server.predict("shapes", inputs, signature=signature)


def test_request_without_rows_returns_no_rows(counting: Path, batching: Batching) -> None:
    server = batching(counting, "max_batch_size { value: 8 } allowed_batch_sizes: 8")
    assert ask(server, np.zeros((0, 3)))["total"].shape == (0,)
    assert ask(server, [[1, 2, 3]])["total"] == [6]


def test_failed_batch_does_not_affect_later_batches(base_path: Path, batching: Batching) -> None:
    guarded.publish(base_path)
    server = batching(
        base_path, "max_batch_size { value: 2 } batch_timeout_micros { value: 500000 }"
    )

    def code(x: float) -> Any:
        try:
            ask(server, [x])
        except grpc.RpcError as error:
            return error.code()
        return None

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(code, [1.0, -1.0])) == [grpc.StatusCode.INVALID_ARGUMENT] * 2
        assert list(pool.map(code, [1.0, 2.0])) == [None, None]


def test_unloading_version_answers_queued_requests(base_path: Path, batching: Batching) -> None:
    publish(base_path, 1)
    server = batching(base_path, "batch_timeout_micros { value: 1500000 }")
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.append(server.ask()))
    waiting.start()
    time.sleep(0.3)
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2")
    waiting.join()
    assert replies == [([11.0], 1)]
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
    assert server.ask() == ([12.0], 2)


def test_only_versions_with_their_own_parameters_are_batched(
    counting: Path, base_path: Path, batching: Batching
) -> None:
    own = base_path.parent / "own"
    own.mkdir()
    (own / "batching_params.pbtxt").write_text("max_batch_size { value: 3 }")
    for entry in (counting / "1").iterdir():
        (own / entry.name).symlink_to(entry)
    own.rename(base_path / "1")
    each = "--enable_per_model_batching_parameters"
    server = batching(base_path, "max_batch_size { value: 100 }", each)
    assert len(ask(server, np.zeros((3, 1)))["total"]) == 3
    with refused("INVALID_ARGUMENT", "larger than maximum input batch size 3"):
        ask(server, np.zeros((4, 1)))
    (base_path / "2").symlink_to(counting / "1")
    wait_for(lambda: server.is_available(2), "version 2, without a file")
    assert ask(server, np.zeros((200, 1)))["together"].tolist() == [200] * 200


def test_version_with_invalid_parameters_fails_to_load(base_path: Path, batching: Batching) -> None:
    publish(base_path, 1)
    server = batching(base_path, "", "--enable_per_model_batching_parameters")
    wrong = publish(base_path.parent / "wrong", 2)
    (wrong / "batching_params.pbtxt").write_text("max_batch_size: nonsense")
    wrong.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    status = server.statuses()[2].status
    assert status.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "batching_params.pbtxt" in status.error_message
    assert server.ask() == ([11.0], 1)


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
    base_path: Path, fails: Fails, text: str, message: str
) -> None:
    file = base_path.parent / "batching.config"
    file.write_text(text)
    flags = ("--enable_batching", f"--batching_parameters_file={file}")
    (line,) = fails(*flags_of(base_path), *flags).splitlines()
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
    assert ask(server, np.ones((8, 2)))["total"].tolist() == [2.0] * 8
