"""Bad versions, requests and configurations do not disturb the callers of a good model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import model_management_pb2

from tests.serving.conftest import RunningServer, Serve, model_flags
from tests.serving.test_load import under_load
from tests.support.affine import publish
from tests.support.caller import (
    Caller,
    model_config,
    models_config,
    predict_request,
    raises_rpc_error,
)
from tests.support.processes import wait_for

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
FLOAT, STRING = types_pb2.DT_FLOAT, types_pb2.DT_STRING
GRAPH = "saved_model.pb"
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
# Repetitions of each fault, so that it coincides with different phases of the calls.
ROUNDS = 5

Corruption = Callable[[Path], None]


@pytest.fixture
def server(tmp_path: Path, base_path: Path, serve: Serve) -> Iterator[RunningServer]:
    """A server whose good model is called continuously; no call may fail."""
    publish(base_path, 1)
    secret = _publish_unserved(tmp_path / "secret")
    server = serve(*model_flags(base_path))
    with under_load(server, _predict) as answers:
        yield server
        after = len(answers)
        wait_for(lambda: len(answers) > after + 10, "callers still get answers")
    assert server.running.stop() == 0
    assert "Traceback" not in server.running.output()
    assert all(path.stat().st_atime == 0 for path in secret), "the secret was read"


def _publish_unserved(base_path: Path) -> list[Path]:
    """Publish a version that is not served; its files' access times show whether they are read."""
    publish(base_path, 1)
    files = [path for path in base_path.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (0, 0))
    return files


def _predict(server: Caller) -> None:
    (y,), version = server.predict_x()
    assert y == 10 + version


def _empty(version: Path) -> None:
    shutil.rmtree(version)
    version.mkdir()


def _overwrite(file: str) -> Corruption:
    def overwrite(version: Path) -> None:
        (version / file).write_bytes(b"garbage" * 100)

    return overwrite


def _truncate(file: str) -> Corruption:
    def truncate(version: Path) -> None:
        data = (version / file).read_bytes()
        (version / file).write_bytes(data[: len(data) // 2])

    return truncate


def _remove(*names: str) -> Corruption:
    """Return a corruption that removes parts of a version, as if a copy were incomplete."""

    def remove(version: Path) -> None:
        for name in names:
            path = version / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


@pytest.mark.parametrize(
    ("corrupt", "code"),
    [
        (_empty, grpc.StatusCode.NOT_FOUND),
        (_overwrite(GRAPH), grpc.StatusCode.DATA_LOSS),
        (_overwrite(INDEX), grpc.StatusCode.DATA_LOSS),
        (_truncate(GRAPH), grpc.StatusCode.DATA_LOSS),
        (_truncate(INDEX), grpc.StatusCode.DATA_LOSS),
        (_truncate(DATA), grpc.StatusCode.OUT_OF_RANGE),
        (_remove(GRAPH), grpc.StatusCode.NOT_FOUND),
        (_remove(DATA), grpc.StatusCode.NOT_FOUND),
        (_remove("variables"), grpc.StatusCode.FAILED_PRECONDITION),
        (_remove("assets"), grpc.StatusCode.NOT_FOUND),
        (_remove("variables", "assets"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
    ids=[
        "empty", "garbage graph", "garbage index", "truncated graph", "truncated index",
        "truncated variables", "no graph", "no data", "no variables", "no assets", "only the graph",
    ],
)  # fmt: skip
def test_bad_versions_do_not_disturb_callers(
    tmp_path: Path,
    base_path: Path,
    server: RunningServer,
    corrupt: Corruption,
    code: grpc.StatusCode,
) -> None:
    for number in range(2, 2 + ROUNDS):
        version = publish(tmp_path / "hidden", number)
        corrupt(version)
        version.rename(base_path / version.name)
        wait_for(partial(server.has_ended, number), f"version {number} has failed")
        status = server.statuses()[number].status
        assert status.error_code == code.value[0], status
        assert status.error_message
        with raises_rpc_error(
            "NOT_FOUND", f"Servable not found for request: Specific(m, {number})"
        ):
            server.predict_x(version=number)
    assert server.is_available(1)
    publish(base_path, 1 + number)
    wait_for(lambda: server.is_available(1 + number), "a good version after the bad ones")


def _request(dtype: int, sizes: Sequence[int], **values: Any) -> bytes:
    """Return a serialized request with a tensor of this dtype and shape."""
    tensor = tensor_pb2.TensorProto(**values)
    tensor.dtype = dtype
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    request = predict_request("m", {})
    request.inputs["x"].CopyFrom(tensor)
    return bytes(request.SerializeToString())


INVALID_TENSOR = ("INVALID_ARGUMENT", "tensor parsing error: x")
WRONG_DTYPE = ("INVALID_ARGUMENT", "Expects arg[0] to be float32 but string is provided")
REQUESTS = {
    "garbage": (b"garbage", ("INTERNAL", "")),
    "length beyond the end": (b"\x0a\xff\xff\xff\xff\x07", ("INTERNAL", "")),
    "unterminated groups": (b"\x0b" * 10_000, ("INTERNAL", "")),
    "empty": (b"", ("INVALID_ARGUMENT", "Missing ModelSpec")),
    "huge": (_request(FLOAT, [2**62], float_val=[1]), INVALID_TENSOR),
    "one gigabyte": (_request(FLOAT, [2**28], float_val=[1]), INVALID_TENSOR),
    "overflow": (_request(FLOAT, [2**33, 2**33], float_val=[1]), INVALID_TENSOR),
    "overflow to zero": (_request(FLOAT, [2**32, 2**32, 0]), INVALID_TENSOR),
    "negative": (_request(FLOAT, [-1], float_val=[1]), INVALID_TENSOR),
    "most negative": (_request(FLOAT, [-(2**63)], float_val=[1]), INVALID_TENSOR),
    "rank 5000": (_request(FLOAT, [1] * 5000, float_val=[1]), INVALID_TENSOR),
    "unknown dtype": (_request(999, [1], float_val=[1]), INVALID_TENSOR),
    "no dtype": (_request(0, [1], float_val=[1]), INVALID_TENSOR),
    "short content": (_request(FLOAT, [2], tensor_content=b"1234567"), INVALID_TENSOR),
    "long content": (_request(FLOAT, [1], tensor_content=b"12345"), INVALID_TENSOR),
    "long string": (_request(STRING, [1], string_val=[b"x" * 2**25]), WRONG_DTYPE),
    "many strings": (_request(STRING, [10**6], string_val=[b""] * 10**6), WRONG_DTYPE),
    "high-rank strings": (_request(STRING, [1] * 254, string_val=[b"x"]), WRONG_DTYPE),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_bad_requests_do_not_disturb_callers(server: RunningServer, kind: str) -> None:
    data, (code, details) = REQUESTS[kind]
    method: Any = server.channel.unary_unary(PREDICT)
    for _ in range(ROUNDS):
        with raises_rpc_error(code, details):
            method(data, timeout=20)


def _repeated_model(times: int) -> bytes:
    request = model_management_pb2.ReloadConfigRequest()
    for _ in range(times):
        request.config.model_config_list.config.add(
            name="n", base_path="/", model_platform="tensorflow"
        )
    return bytes(request.SerializeToString())


INVALID_PATH = ("INVALID_ARGUMENT", "Expected model n to have an absolute path or URI")
NO_VERSIONS = ("FAILED_PRECONDITION", "Model n cannot be served from base path")
PATHS = {
    "../../x": INVALID_PATH,
    "../secret": INVALID_PATH,
    "m": INVALID_PATH,
    "": INVALID_PATH,
    "file:etc": INVALID_PATH,
    "gs://etc": ("INVALID_ARGUMENT", "Expected model n to have a local path; got base_path()=gs:"),
    "{folder}\\000/secret": INVALID_PATH,
    "/../../x": NO_VERSIONS,
    "{folder}/m/../nosuch": NO_VERSIONS,
    "{folder}/m/1": NO_VERSIONS,
    "/proc/self": NO_VERSIONS,
    "file:///etc": NO_VERSIONS,
    "/" + "x" * 5000: NO_VERSIONS,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:30]))
def test_bad_base_paths_do_not_disturb_callers(
    tmp_path: Path, base_path: Path, server: RunningServer, path: str
) -> None:
    before = _modification_times(tmp_path)
    bad = f'name: "n" base_path: "{path.replace("{folder}", str(tmp_path))}"'
    for _ in range(ROUNDS):
        with raises_rpc_error(*PATHS[path]):
            server.reload(models_config(model_config(base_path), bad))
    assert server.states("n") == {}
    assert _modification_times(tmp_path) == before
    _check_polling(base_path.parent / "other", base_path, server)


def test_model_cannot_be_moved_to_an_invalid_path(
    tmp_path: Path, base_path: Path, server: RunningServer
) -> None:
    for path in ("../secret", "", f"{tmp_path}/secret\\000"):
        with raises_rpc_error(
            "INVALID_ARGUMENT", "Expected model m to have an absolute path or URI"
        ):
            server.reload(models_config(f'name: "m" base_path: "{path}"'))
    _check_polling(base_path.parent / "other", base_path, server)


@pytest.mark.parametrize("name", ["../secret", "secret/1", "/", "..", "m/1"])
def test_model_names_are_not_used_as_paths(
    tmp_path: Path, base_path: Path, server: RunningServer, name: str
) -> None:
    publish(tmp_path / "other", 3)
    before = _modification_times(tmp_path)
    with raises_rpc_error("NOT_FOUND", f"Servable not found for request: Latest({name})"):
        server.predict_x(model=name)
    entry = f'name: "{name}" base_path: "{tmp_path / "other"}"'
    server.reload(models_config(model_config(base_path), entry))
    assert server.predict_x(model=name) == ([13.0], 3)  # any non-empty name is valid
    server.reload(models_config(model_config(base_path)))
    assert _modification_times(tmp_path) == before


@pytest.mark.parametrize(
    ("data", "code", "details"),
    [
        (b"garbage", "INTERNAL", ""),
        (b"\x0a\xff\xff\xff\xff\x07", "INTERNAL", ""),
        (b"", "INVALID_ARGUMENT", "ServerModelConfig type not supported"),
        (_repeated_model(times=100_000), "INVALID_ARGUMENT", "Illegal to list model n multiple"),
    ],
    ids=["garbage", "length beyond the end", "empty", "repeated model"],
)
def test_bad_configurations_do_not_disturb_callers(
    base_path: Path, server: RunningServer, data: bytes, code: str, details: str
) -> None:
    method: Any = server.channel.unary_unary(RELOAD)
    for _ in range(ROUNDS):
        with raises_rpc_error(code, details):
            method(data, timeout=20)
    _check_polling(base_path.parent / "other", base_path, server)


def _check_polling(other: Path, base_path: Path, server: RunningServer) -> None:
    """Check that the server still polls for versions."""
    publish(other, 1)
    server.reload(models_config(model_config(base_path), model_config(other)))
    publish(other, 2)
    wait_for(lambda: server.is_available(2, "other"), "a new version")


def _modification_times(folder: Path) -> dict[Path, int]:
    """Return the modification times of all files and directories except logs."""
    files = (path for path in folder.rglob("*") if path.suffix != ".log")
    return {path: path.stat().st_mtime_ns for path in files}
