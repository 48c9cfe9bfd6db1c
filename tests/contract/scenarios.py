"""Replays a recorded scenario: starts a server, runs the steps, and returns the observations."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.contract.recordings import Case, fill
from tests.support import forked
from tests.support.processes import Running, free_port

LOG_EVENT = re.compile(
    r"(loaded|unloading) servable version \{name: (\S+) version: (\d+)\}",
)
METADATA_FIELDS = ("do", "observed", "text_stable", "informative", "note")
# The recorded deadlines are too short for a busy machine.
CALL_TIMEOUT_SECONDS = 240
# More processor time than an idle server uses.
COMPUTING_SECONDS = 0.5
_STATES = get_model_status_pb2.ModelVersionStatus.State

Observation = Any


def play(case: Case, models: Path, folder: Path) -> list[Observation]:
    """Run the steps of a scenario, and return the observation of each step.

    Args:
        case: the scenario.
        models: folder of models from which versions are copied.
        folder: an empty folder for this scenario.
    """
    stage = _Stage(case["server_flags"], models, folder)
    try:
        return [_run_step(stage, step) for step in case["steps"]]
    finally:
        stage.close()


def _run_step(stage: _Stage, step: Case) -> Observation:
    arguments = {key: value for key, value in step.items() if key not in METADATA_FIELDS}
    return getattr(stage, step["do"])(**arguments)


class _Stage:
    """Has one method per kind of step, named as in the recordings."""

    def __init__(self, flags: Sequence[str], models: Path, folder: Path) -> None:
        self._paths = {"models": models, "dir": folder}
        self._flags = [fill(flag, self._paths) for flag in flags]
        self._models = models
        self._folder = folder
        self._ports = (free_port(), free_port())
        self._server: Running | None = None
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self._ports[0]}")
        self._prediction_service = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model_service = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._pool = concurrent.futures.ThreadPoolExecutor()
        self._running_calls: dict[str, concurrent.futures.Future[Observation]] = {}
        self._watch: _Watch | None = None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.end()
        if self._server is not None:
            self._server.stop()
        self._pool.shutdown()
        self._channel.close()

    # Files. Paths are relative to the scenario's folder.

    def write_file(self, path: str, text: str) -> None:
        new = self._folder / f"{path}.new"
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(fill(text, self._paths))
        new.rename(self._folder / path)

    write_config = write_file

    def copy_version(self, model: str, version: str, to: str) -> None:
        copy = self._folder / "copying"
        shutil.copytree(self._models / model / version, copy)
        (self._folder / to).parent.mkdir(parents=True, exist_ok=True)
        copy.rename(self._folder / to)

    def overwrite_version(self, model: str, version: str, to: str) -> None:
        source = self._models / model / version
        shutil.copytree(source, self._folder / to, dirs_exist_ok=True)

    def remove_version(self, path: str) -> None:
        removed = (self._folder / path).rename(self._folder / "removing")
        shutil.rmtree(removed)

    def rename_version(self, path: str, to: str) -> None:
        (self._folder / path).rename(self._folder / to)

    def make_dir(self, path: str) -> None:
        (self._folder / path).mkdir(parents=True)

    # The server.

    def start(self, wait_s: float = 60) -> Observation:
        ports = [f"--port={self._ports[0]}", f"--rest_api_port={self._ports[1]}"]
        flags = ["--bind_address=127.0.0.1", *ports, *self._flags]
        self._server = forked.start(self._folder / "server.log", *flags)
        return self.check_server(wait_s)

    def check_server(self, wait_s: float = 0.2) -> Observation:
        _wait_until(lambda: self._exited() or self._ports_open(), wait_s)
        return {"ports_open": self._ports_open(), "exited": self._exited()}

    def server_log(self) -> Observation:
        text = (self._folder / "server.log").read_text()
        return [[event, name, int(version)] for event, name, version in LOG_EVENT.findall(text)]

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _exited(self) -> bool:
        return self._server is not None and self._server.process.poll() is not None

    def _ports_open(self) -> bool:
        return all(map(_is_open, self._ports))

    # Calls. Errors are observations, too.

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        timeout_s: float = 30,
        version: int | None = None,
        label: str | None = None,
    ) -> Observation:
        request = predict_pb2.PredictRequest()
        _fill_spec(request.model_spec, model, version, label)
        for name, value in inputs.items():
            tensor = value if isinstance(value, dict) else {"dtype": "DT_FLOAT", "values": value}
            dtype = tf.as_dtype(tensor["dtype"].removeprefix("DT_").lower())
            request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor["values"], dtype))
        response, error = self._call(self._prediction_service.Predict, request, timeout_s)
        return error or {
            "version": response.model_spec.version.value,
            "outputs": {name: tf.make_ndarray(y).tolist() for name, y in response.outputs.items()},
        }

    def status(self, model: str, timeout_s: float = 10) -> Observation:
        statuses, error = self._statuses(model, None, timeout_s)
        return error or {
            "versions": [
                [version.version, _STATES.Name(version.state), _code(version.status.error_code)]
                for version in statuses
            ]
        }

    def status_text(self, model: str, version: int) -> Observation:
        statuses, error = self._statuses(model, version, 10)
        return error or {
            "texts": [self._hide_paths(version.status.error_message) for version in statuses]
        }

    def wait_state(self, model: str, version: int, state: str, timeout_s: float = 20) -> bool:
        def is_reached() -> bool:
            rows = self.status(model).get("versions", [])
            return any(row[:2] == [version, state] for row in rows)

        return _wait_until(is_reached, timeout_s)

    def wait_available(self, model: str, version: int, timeout_s: float = 20) -> bool:
        return self.wait_state(model, version, "AVAILABLE", timeout_s)

    def reload_config(self, config: Mapping[str, Any], timeout_s: float = 15) -> Observation:
        request = model_management_pb2.ReloadConfigRequest()
        text = fill(json.dumps(config), self._paths)
        json_format.Parse(text, request.config)
        response, error = self._call(
            self._model_service.HandleReloadConfigRequest, request, timeout_s
        )
        return error or {
            "error_code": _code(response.status.error_code),
            "error_message": self._hide_paths(response.status.error_message),
        }

    # Concurrent calls and observations.

    def predict_begin(self, name: str, **arguments: Any) -> None:
        """Call a slow model, and return once the server's processor time shows that it computes."""
        assert self._server is not None
        server = psutil.Process(self._server.process.pid)
        before = _processor_seconds(server)
        call = self._pool.submit(self.predict, **{**arguments, "timeout_s": CALL_TIMEOUT_SECONDS})
        self._running_calls[name] = call

        def has_begun() -> bool:
            return call.done() or _processor_seconds(server) > before + COMPUTING_SECONDS

        assert _wait_until(has_begun, CALL_TIMEOUT_SECONDS)

    def predict_running(self, name: str) -> bool:
        return not self._running_calls[name].done()

    def predict_end(self, name: str) -> Observation:
        return self._running_calls[name].result()

    def watch_begin(self, model: str) -> None:
        self._watch = _Watch(functools.partial(self.status, model))

    def watch_end(self, model: str) -> Observation:
        assert self._watch is not None
        return self._watch.end()

    def _statuses(self, model: str, version: int | None, timeout: float) -> tuple[Any, Any]:
        request = get_model_status_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, model, version)
        response, error = self._call(self._model_service.GetModelStatus, request, timeout)
        return response.model_version_status if response else (), error

    def _call(self, method: Any, request: Any, timeout: float) -> tuple[Any, Observation]:
        try:
            return method(request, timeout=timeout), None
        except grpc.RpcError as error:
            details = self._hide_paths(error.details() or "")
            return None, {"error": {"code": error.code().name, "details": details}}

    def _hide_paths(self, text: str) -> str:
        for name, path in self._paths.items():
            text = text.replace(str(path), "{" + name + "}")
        return text


class _Watch:
    """Polls a model's versions, and records the sequence of states of each version."""

    def __init__(self, get_status: Callable[[], Observation]) -> None:
        self._get_status = get_status
        self._sequences: dict[str, list[Any]] = {}
        self._always_served = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> Observation:
        self._stop.set()
        self._thread.join()
        self._record()
        return {"sequences": self._sequences, "always_served": self._always_served}

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            self._record()

    def _record(self) -> None:
        rows = self._get_status().get("versions", [])
        for version, *state in rows:
            sequence = self._sequences.setdefault(str(version), [])
            if sequence[-1:] != [state]:
                sequence.append(state)
        self._always_served &= any(state == "AVAILABLE" for _, state, _ in rows)


def _fill_spec(spec: Any, model: str, version: int | None = None, label: str | None = None) -> None:
    spec.name = model
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def _code(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
