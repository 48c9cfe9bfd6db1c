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
from tests.support.caller import Caller, model_config, models_config, predict_request, refused
from tests.support.processes import wait_for

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
FLOAT, STRING = types_pb2.DT_FLOAT, types_pb2.DT_STRING
GRAPH = "saved_model.pb"
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
# Repetitions of each fault, so that it meets callers in many states.
ROUNDS = 5

Spoil = Callable[[Path], None]


@pytest.fixture
def server(tmp_path: Path, base_path: Path, serve: Serve) -> Iterator[RunningServer]:
    """A server whose good model is called all the time; no call may fail."""
    publish(base_path, 1)
    secret = _publish_unserved(tmp_path / "secret")
    server = serve(*model_flags(base_path))
    with under_load(server, _ask) as answers:
        yield server
        after = len(answers)
        wait_for(lambda: len(answers) > after + 10, "callers are still answered")
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


def _ask(server: Caller) -> None:
    (y,), version = server.ask()
    assert y == 10 + version


def _empty(version: Path) -> None:
    shutil.rmtree(version)
    version.mkdir()


def _garbage(file: str) -> Spoil:
    def overwrite(version: Path) -> None:
        (version / file).write_bytes(b"garbage" * 100)

    return overwrite


def _truncated(file: str) -> Spoil:
    def truncate(version: Path) -> None:
        data = (version / file).read_bytes()
        (version / file).write_bytes(data[: len(data) // 2])

    return truncate


def _without(*names: str) -> Spoil:
    """Remove the parts that an incomplete copy lacks."""

    def remove(version: Path) -> None:
        for name in names:
            path = version / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_empty, grpc.StatusCode.NOT_FOUND),
        (_garbage(GRAPH), grpc.StatusCode.DATA_LOSS),
        (_garbage(INDEX), grpc.StatusCode.DATA_LOSS),
        (_truncated(GRAPH), grpc.StatusCode.DATA_LOSS),
        (_truncated(INDEX), grpc.StatusCode.DATA_LOSS),
        (_truncated(DATA), grpc.StatusCode.OUT_OF_RANGE),
        (_without(GRAPH), grpc.StatusCode.NOT_FOUND),
        (_without(DATA), grpc.StatusCode.NOT_FOUND),
        (_without("variables"), grpc.StatusCode.FAILED_PRECONDITION),
        (_without("assets"), grpc.StatusCode.NOT_FOUND),
        (_without("variables", "assets"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
    ids=[
        "empty", "garbage graph", "garbage index", "truncated graph", "truncated index",
        "truncated variables", "no graph", "no data", "no variables", "no assets", "graph alone",
    ],
)  # fmt: skip
def test_bad_versions_do_not_disturb_callers(
    tmp_path: Path, base_path: Path, server: RunningServer, spoil: Spoil, code: grpc.StatusCode
) -> None:
    for number in range(2, 2 + ROUNDS):
        version = publish(tmp_path / "hidden", number)
        spoil(version)
        version.rename(base_path / version.name)
        wait_for(partial(server.has_ended, number), f"version {number} has failed")
        status = server.statuses()[number].status
        assert status.error_code == code.value[0], status
        assert status.error_message
        with refused("NOT_FOUND", f"Servable not found for request: Specific(m, {number})"):
            server.ask(version=number)
    assert server.is_available(1)
    publish(base_path, 1 + number)
    wait_for(lambda: server.is_available(1 + number), "a good version after all the bad ones")


def _sent(dtype: int, sizes: Sequence[int], **values: Any) -> bytes:
    """Return a request for a tensor of this shape."""
    tensor = tensor_pb2.TensorProto(**values)
    tensor.dtype = dtype
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    request = predict_request("m", {})
    request.inputs["x"].CopyFrom(tensor)
    return bytes(request.SerializeToString())


NO_TENSOR = ("INVALID_ARGUMENT", "tensor parsing error: x")
NO_FLOATS = ("INVALID_ARGUMENT", "Expects arg[0] to be float32 but string is provided")
REQUESTS = {
    "garbage": (b"garbage", ("INTERNAL", "")),
    "a length beyond the end": (b"\x0a\xff\xff\xff\xff\x07", ("INTERNAL", "")),
    "groups without an end": (b"\x0b" * 10_000, ("INTERNAL", "")),
    "nothing": (b"", ("INVALID_ARGUMENT", "Missing ModelSpec")),
    "huge": (_sent(FLOAT, [2**62], float_val=[1]), NO_TENSOR),
    "a gigabyte": (_sent(FLOAT, [2**28], float_val=[1]), NO_TENSOR),
    "overflowing": (_sent(FLOAT, [2**33, 2**33], float_val=[1]), NO_TENSOR),
    "overflowing to nothing": (_sent(FLOAT, [2**32, 2**32, 0]), NO_TENSOR),
    "negative": (_sent(FLOAT, [-1], float_val=[1]), NO_TENSOR),
    "most negative": (_sent(FLOAT, [-(2**63)], float_val=[1]), NO_TENSOR),
    "rank of 5000": (_sent(FLOAT, [1] * 5000, float_val=[1]), NO_TENSOR),
    "unknown dtype": (_sent(999, [1], float_val=[1]), NO_TENSOR),
    "no dtype": (_sent(0, [1], float_val=[1]), NO_TENSOR),
    "short content": (_sent(FLOAT, [2], tensor_content=b"1234567"), NO_TENSOR),
    "long content": (_sent(FLOAT, [1], tensor_content=b"12345"), NO_TENSOR),
    "a long string": (_sent(STRING, [1], string_val=[b"x" * 2**25]), NO_FLOATS),
    "many strings": (_sent(STRING, [10**6], string_val=[b""] * 10**6), NO_FLOATS),
    "strings of many dimensions": (_sent(STRING, [1] * 254, string_val=[b"x"]), NO_FLOATS),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_bad_requests_do_not_disturb_callers(server: RunningServer, kind: str) -> None:
    data, (code, details) = REQUESTS[kind]
    method: Any = server.channel.unary_unary(PREDICT)
    for _ in range(ROUNDS):
        with refused(code, details):
            method(data, timeout=20)


def _same_model(times: int) -> bytes:
    request = model_management_pb2.ReloadConfigRequest()
    for _ in range(times):
        request.config.model_config_list.config.add(name="n", base_path="/")
    return bytes(request.SerializeToString())


NO_PATH = ("INVALID_ARGUMENT", "Expected model n to have an absolute path or URI")
NO_VERSIONS = ("FAILED_PRECONDITION", "Model n cannot be served from base path")
PATHS = {
    "../../x": NO_PATH,
    "../secret": NO_PATH,
    "m": NO_PATH,
    "": NO_PATH,
    "file:etc": NO_PATH,
    "gs://etc": ("INVALID_ARGUMENT", "Expected model n to have a local path; got base_path()=gs:"),
    "{folder}\\000/secret": NO_PATH,
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
    before = _files(tmp_path)
    bad = f'name: "n" base_path: "{path.replace("{folder}", str(tmp_path))}"'
    for _ in range(ROUNDS):
        with refused(*PATHS[path]):
            server.reload(models_config(model_config(base_path), bad))
    assert server.states("n") == {}
    assert _files(tmp_path) == before
    _check_that_versions_are_found(base_path.parent / "other", base_path, server)


def test_model_cannot_be_moved_to_an_invalid_path(
    tmp_path: Path, base_path: Path, server: RunningServer
) -> None:
    for path in ("../secret", "", f"{tmp_path}/secret\\000"):
        with refused("INVALID_ARGUMENT", "Expected model m to have an absolute path or URI"):
            server.reload(models_config(f'name: "m" base_path: "{path}"'))
    _check_that_versions_are_found(base_path.parent / "other", base_path, server)


@pytest.mark.parametrize("name", ["../secret", "secret/1", "/", "..", "m/1"])
def test_model_names_are_not_used_as_paths(
    tmp_path: Path, base_path: Path, server: RunningServer, name: str
) -> None:
    publish(tmp_path / "other", 3)
    before = _files(tmp_path)
    with refused("NOT_FOUND", f"Servable not found for request: Latest({name})"):
        server.ask(model=name)
    entry = f'name: "{name}" base_path: "{tmp_path / "other"}"'
    server.reload(models_config(model_config(base_path), entry))
    assert server.ask(model=name) == ([13.0], 3)  # a valid name
    server.reload(models_config(model_config(base_path)))
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"garbage", "INTERNAL"),
        (b"\x0a\xff\xff\xff\xff\x07", "INTERNAL"),
        (b"", "INVALID_ARGUMENT"),
        (_same_model(times=100_000), "INVALID_ARGUMENT"),
    ],
    ids=["garbage", "a length beyond the end", "nothing", "one model many times"],
)
def test_bad_configurations_do_not_disturb_callers(
    base_path: Path, server: RunningServer, data: bytes, code: str
) -> None:
    method: Any = server.channel.unary_unary(RELOAD)
    for _ in range(ROUNDS):
        with refused(code):
            method(data, timeout=20)
    _check_that_versions_are_found(base_path.parent / "other", base_path, server)


def _check_that_versions_are_found(other: Path, base_path: Path, server: RunningServer) -> None:
    """Check that the server still polls for versions."""
    publish(other, 1)
    server.reload(models_config(model_config(base_path), model_config(other)))
    publish(other, 2)
    wait_for(lambda: server.is_available(2, "other"), "a new version")


def _files(folder: Path) -> dict[Path, int]:
    """Return all files except logs, with their modification times."""
    files = (path for path in folder.rglob("*") if path.suffix != ".log")
    return {path: path.stat().st_mtime_ns for path in files}
