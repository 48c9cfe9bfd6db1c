"""Changes of versions, configurations and labels do not disturb callers under load."""

from __future__ import annotations

import importlib
import itertools
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from serving.servables import memory
from tests.contract.recordings import CORPUS
from tests.serving.conftest import Serve, model_flags
from tests.support.affine import publish
from tests.support.caller import Caller, model_config, models_config
from tests.support.processes import wait_for

ROUNDS = 100
MIB = 2**20
LARGE_MODEL = CORPUS / "models" / "breast_cancer"

Call = Callable[[Caller], None]


@contextmanager
def under_load(server: Caller, call: Call, callers: int = 3) -> Iterator[list[int]]:
    """Call continuously; every call must succeed. Yield a list that grows with each answer."""
    stop = threading.Event()
    answers: list[int] = []

    def run() -> None:
        while not stop.is_set():
            call(server)
            answers.append(1)

    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(run) for _ in range(callers)]
        try:
            yield answers
        finally:
            stop.set()
        for future in futures:
            future.result()


def test_publishes_and_rollbacks_do_not_disturb_callers(base_path: Path, serve: Serve) -> None:
    """Each round publishes a version and removes the new one (a rollback) or the old one."""
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    current = {1}  # versions that may answer

    def call(server: Caller) -> None:
        allowed = set(current)
        (y,), version = server.predict_x()
        assert y == 10 + version
        assert version in allowed | current

    with under_load(server, call) as answers:
        newest = 1
        for number in range(2, 2 + ROUNDS):
            current.add(number)
            publish(base_path, number)
            wait_for(partial(server.is_available, number), f"version {number}")
            removed, newest = (number, newest) if number % 2 else (newest, number)
            shutil.rmtree(base_path / str(removed))
            wait_for(partial(serves_only, server, newest), f"{newest} alone")
            current.discard(removed)
    assert len(answers) > ROUNDS


def serves_only(server: Caller, version: int) -> bool:
    states = server.states()
    return [number for number, state in states.items() if state == "AVAILABLE"] == [version]


def test_config_reloads_do_not_disturb_callers(
    tmp_path: Path, base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    publish(tmp_path / "other", 7)
    server = serve(*model_flags(base_path))
    one_model = models_config(model_config(base_path))
    two_models = models_config(model_config(base_path), model_config(tmp_path / "other"))

    def call(server: Caller) -> None:
        assert server.predict_x() == ([11.0], 1)

    with under_load(server, call) as answers:
        for _ in range(ROUNDS // 2):
            server.reload(two_models)
            assert server.predict_x(model="other") == ([17.0], 7)
            server.reload(one_model)
            assert server.states("other").get(7) != "AVAILABLE"
    assert len(answers) > ROUNDS


def test_label_moves_do_not_disturb_callers(base_path: Path, serve: Serve) -> None:
    """During a move, callers get either version; after it, they get the new one."""
    publish(base_path, 1)
    publish(base_path, 2)
    server = serve(*model_flags(base_path))
    all_versions = "model_version_policy { all {} }"
    server.reload(models_config(model_config(base_path, all_versions)))
    wait_for(lambda: server.states() == {1: "AVAILABLE", 2: "AVAILABLE"}, "both versions")

    def move(version: int) -> None:
        label = f'version_labels {{ key: "stable" value: {version} }}'
        server.reload(models_config(model_config(base_path, f"{all_versions} {label}")))

    def call(server: Caller) -> None:
        (y,), version = server.predict_x(label="stable")
        assert y == 10 + version
        assert version in {1, 2}

    move(1)
    with under_load(server, call) as answers:
        for _, version in zip(range(ROUNDS), itertools.cycle([2, 1]), strict=False):
            move(version)
            assert server.predict_x(label="stable")[1] == version
    assert len(answers) > ROUNDS


def test_simultaneous_changes_do_not_disturb_callers(
    tmp_path: Path, base_path: Path, serve: Serve
) -> None:
    """Versions and models are added and removed while a label moves."""
    for version in (1, 2):
        publish(base_path, version)
        publish(tmp_path / "other", version)
    publish(tmp_path / "moving", 1)
    server = serve(*model_flags(base_path))
    all_versions = "model_version_policy { all {} }"
    moving = model_config(tmp_path / "moving")

    def config(label: int, *more: str) -> str:
        stable = f'version_labels {{ key: "stable" value: {label} }}'
        return models_config(model_config(base_path, f"{all_versions} {stable}"), moving, *more)

    server.reload(models_config(model_config(base_path, all_versions), moving))
    wait_for(lambda: server.states() == {2: "AVAILABLE", 1: "AVAILABLE"}, "both versions")
    server.reload(config(1))

    def call(server: Caller) -> None:
        (y,), version = server.predict_x(label="stable")
        assert y == 10 + version
        (y,), version = server.predict_x(model="moving")
        assert y == 10 + version

    def publish_and_roll_back() -> None:
        for number in range(2, 2 + ROUNDS // 4):
            publish(tmp_path / "moving", number)
            wait_for(partial(server.is_available, number, "moving"), f"version {number}")
            shutil.rmtree(tmp_path / "moving" / str(number))
            wait_for(partial(server.is_available, 1, "moving"), "version 1 again")

    with under_load(server, call) as answers, ThreadPoolExecutor(1) as pool:
        moves = pool.submit(publish_and_roll_back)
        for label in itertools.cycle([2, 1]):
            server.reload(config(label, model_config(tmp_path / "other")))
            assert server.predict_x(model="other")[1] == 2
            server.reload(config(label))
            assert server.predict_x(label="stable")[1] == label
            if moves.done():
                break
        moves.result()
    assert len(answers) > ROUNDS


def test_malloc_trim_is_found_without_a_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minimal image may have neither ldconfig nor a compiler."""

    def popen(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "Popen", popen)
    importlib.reload(memory)
    memory.return_freed_memory()


def test_reloads_do_not_leak_memory(base_path: Path, serve: Serve) -> None:
    """The memory of an unloaded version is freed at once, not at the next garbage collection."""
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    process = psutil.Process(server.running.process.pid)
    one_model = models_config(model_config(base_path))
    two_models = models_config(model_config(base_path), model_config(LARGE_MODEL))

    def reload() -> int:
        server.reload(two_models)
        server.reload(one_model)
        wait_for(lambda: set(server.states(LARGE_MODEL.name).values()) == {"END"}, "the unload")
        return process.memory_info().rss

    before = max(reload() for _ in range(3))
    sizes = [reload() for _ in range(40)]
    assert max(sizes) < 1.05 * before, f"{before / MIB:.0f} → {max(sizes) / MIB:.0f} MiB"
