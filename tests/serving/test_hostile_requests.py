"""Hostile requests are rejected with an allowed status code, and have no other effect."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from tests.contract import recordings
from tests.serving.conftest import Serve, model_flags
from tests.support import forked
from tests.support.affine import publish
from tests.support.caller import (
    Caller,
    model_config,
    models_config,
    predict_request,
    raises_rpc_error,
)
from tests.support.processes import Running

MIB = 2**20
PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"
RELOAD = f"{MODEL}HandleReloadConfigRequest"
RPCS = (
    *(PREDICTION + n for n in ("Predict", "Classify", "Regress", "MultiInference")),
    f"{PREDICTION}GetModelMetadata",
    f"{MODEL}GetModelStatus",
)
# Allowed status codes; INTERNAL, without details, is for bytes that cannot be parsed.
ALLOWED = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "OUT_OF_RANGE")
RECORDED = [
    (case["rpc"], base64.b64decode(case["request_base64"]))
    for case in recordings.read("grpc")
    if case["rpc"] in RPCS
]
fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the recordings' models."""
    folder = tmp_path_factory.mktemp("hostile")
    names = ("shapes", "mixed", "bytes", "breast_cancer", "affine")
    entries = (model_config(recordings.CORPUS / "models" / name) for name in names)
    (folder / "models.config").write_text(models_config(*entries))
    running = forked.start_model_server(
        folder / "log", f"--model_config_file={folder / 'models.config'}"
    )
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.output()


@pytest.fixture(scope="module")
def server(running: Running) -> Iterator[Caller]:
    with Caller(running.address) as caller:
        yield caller


@pytest.fixture(autouse=True)
def _server_survives_without_growing(running: Running, server: Caller) -> Any:
    memory = psutil.Process(running.process.pid).memory_info
    before = memory().rss
    yield
    assert server.predict_x([1.0], model="affine") == ([14.0], 4)
    assert memory().rss - before < 300 * MIB


def call_raw(server: Caller, rpc: str, data: bytes) -> tuple[str, str]:
    """Send bytes as a request, and return the status code and details."""
    method: Any = server.channel.unary_unary(rpc)
    try:
        method(data, timeout=20)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def check_status(code: str, details: str) -> None:
    assert code in ("OK", *ALLOWED) or (code, details) == ("INTERNAL", ""), (code, details)


@fuzz
@given(rpc=st.sampled_from(RPCS), data=st.binary(max_size=200))
def test_random_bytes_get_an_allowed_status(server: Caller, rpc: str, data: bytes) -> None:
    check_status(*call_raw(server, rpc, data))


@fuzz
@given(
    recorded=st.sampled_from(RECORDED),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3
    ),
)
def test_mutated_requests_get_an_allowed_status(
    server: Caller, recorded: tuple[str, bytes], edits: list[tuple[float, int, bytes]]
) -> None:
    rpc, data = recorded
    for position, removed, inserted in edits:
        index = int(position * len(data))
        data = data[:index] + inserted + data[index + removed :]
    check_status(*call_raw(server, rpc, data))


@fuzz
@given(
    dtype=st.integers(0, 30) | st.integers(100, 130),
    sizes=st.lists(st.integers(-3, 6) | st.sampled_from([2**31, 2**60, 2**62]), max_size=5),
    content=st.binary(max_size=40),
    field=st.sampled_from(["float_val", "int_val", "int64_val", "half_val", "bool_val", "none"]),
    values=st.lists(st.integers(0, 1), max_size=5),
    signature=st.sampled_from(["unknown_rank", "identity_int8", "identity_string", "rank2", "log"]),
)
def test_inconsistent_tensors_get_an_allowed_status(
    server: Caller,
    dtype: int,
    sizes: list[int],
    content: bytes,
    field: str,
    values: list[int],
    signature: str,
) -> None:
    tensor = tensor_pb2.TensorProto(tensor_content=content)
    tensor.dtype = dtype
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    if field != "none":
        getattr(tensor, field).extend(values)
    request = predict_request("shapes", {}, signature)
    request.inputs["x"].CopyFrom(tensor)
    check_status(*call_raw(server, RPCS[0], request.SerializeToString()))


def tensor(sizes: Sequence[int], **values: Any) -> Any:
    proto = tensor_pb2.TensorProto(dtype=1, **values)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        tensor([2**60], float_val=[1.0]),
        tensor([2**31, 2**31], float_val=[1.0]),
        tensor([2**32, 2**32], float_val=[1.0]),
        tensor([2**28], float_val=[1.0]),
        tensor([2**40], tensor_content=b"1234"),
        tensor([-1], float_val=[1.0]),
        tensor([1, -(2**63)], float_val=[1.0]),
        tensor([1] * 255, float_val=[1.0]),
        tensor([0] * 255),
        tensor([2], tensor_content=b"1234"),
        tensor([1], tensor_content=b"12345"),
    ],
    ids=[
        "2^60", "product", "overflow", "one gigabyte", "2^40", "negative", "most negative",
        "rank 255", "rank 255, empty", "short content", "long content",
    ],
)  # fmt: skip
def test_invalid_tensor_is_rejected_quickly(server: Caller, proto: Any) -> None:
    started = time.monotonic()
    with raises_rpc_error("INVALID_ARGUMENT", "tensor parsing error: x"):
        server.predict("shapes", {"x": proto}, signature="unknown_rank")
    assert time.monotonic() - started < 5


def test_invalid_string_lengths_are_rejected(server: Caller) -> None:
    for content in (b"\xff\xff\xff\xff\x07", b"\x80" * 20, b"\x05abc", b"\x00" * 5):
        proto = tensor_pb2.TensorProto(dtype=7, tensor_content=content)
        proto.tensor_shape.dim.add(size=1)
        with raises_rpc_error("INVALID_ARGUMENT", "tensor parsing error: x"):
            server.predict("shapes", {"x": proto}, signature="identity_string")


def test_nested_messages_get_an_allowed_status(server: Caller) -> None:
    """Only variants can be nested; protobuf allows 100 levels."""
    for depth in (40, 400):
        data = b""
        for _ in range(depth):  # variant_val (field 15) with tensors (field 3)
            data = _field(15, _field(3, data))
        request = predict_request("shapes", {"x": [1.0]}).SerializeToString()
        nested = _field(2, _field(1, b"x") + _field(2, b"\x08\x01" + data))
        check_status(*call_raw(server, RPCS[0], request + nested))


def _field(number: int, data: bytes) -> bytes:
    length, varint = len(data), []
    while length > 127:
        varint.append(length % 128 + 128)
        length //= 128
    return bytes([number * 8 + 2, *varint, length]) + data


def test_request_with_100000_inputs_is_rejected(server: Caller) -> None:
    request = predict_request("shapes", {"x": [1.0]})
    for number in range(100_000):
        request.inputs[f"input-{number}"].dtype = 1
    code, details = call_raw(server, RPCS[0], request.SerializeToString())
    assert code == "INVALID_ARGUMENT"
    assert len(details) < 2000


def test_every_output_subset_is_returned(server: Caller) -> None:
    rows = {
        "age": tf.constant([1.0]),
        "income": tf.constant([1.0], tf.float64),
        "city": [b""],
        "member": [True],
        "visits": tf.constant([1], tf.int64),
    }
    outputs = server.predict("mixed", rows).outputs
    names = list(outputs)
    for subset in range(1, 2 ** len(names)):
        selection = [name for bit, name in enumerate(names) if subset >> bit & 1]
        response = server.predict("mixed", rows, outputs=selection)
        assert dict(response.outputs) == {name: outputs[name] for name in selection}
    with raises_rpc_error("INVALID_ARGUMENT", "duplicate output tensor alias"):
        server.predict("mixed", rows, outputs=names[:1] * 100_000)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "secret",
        "/etc",
        ".",
        "..",
        "a/../../secret",
        "m/1",
        "\0",
        "%2e%2e",
        "x" * 10**6,
    ],
    ids=lambda name: repr(name[:20]),
)
def test_model_name_is_never_used_as_a_path(tmp_path: Path, serve: Serve, name: str) -> None:
    publish(tmp_path / "served" / "m", 1)
    publish(tmp_path / "secret", 1)
    server = serve(*model_flags(tmp_path / "served" / "m"))
    before = _modification_times(tmp_path)
    with raises_rpc_error("NOT_FOUND"):
        server.predict_x(model=name)
    assert server.states(name) == {}
    entry = f'name: {_quote(name)} base_path: "{tmp_path / "served" / "m"}"'
    if len(name) < 1000:  # a valid name
        server.reload(models_config(entry))
        assert server.predict_x(model=name) == ([11.0], 1)
    assert _modification_times(tmp_path) == before


def _quote(text: str) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'


def _modification_times(folder: Path) -> dict[str, int]:
    """Return the modification times of all files except logs."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.suffix != ".log"
    }


@settings(fuzz, max_examples=150)
@given(data=st.binary(max_size=100) | st.binary(max_size=100).map(lambda data: _field(1, data)))
def test_random_reloads_get_an_allowed_status(reloadable_server: Caller, data: bytes) -> None:
    check_status(*call_raw(reloadable_server, RELOAD, data))


@pytest.fixture
def reloadable_server(base_path: Path, serve: Serve) -> Iterator[Caller]:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    yield server
    server.reload(models_config(model_config(base_path)))
    assert server.predict_x() == ([11.0], 1)


def test_cancelled_calls_do_not_delay_others(server: Caller) -> None:
    request = predict_request("shapes", {"x": np.ones(100_000, np.float32)})
    calls = [server.prediction.Predict.future(request) for _ in range(300)]
    for call in calls:
        call.cancel()
    started = time.monotonic()
    assert server.predict_x([1.0], model="affine") == ([14.0], 4)
    assert time.monotonic() - started < 5
