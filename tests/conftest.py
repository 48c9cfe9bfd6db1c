"""Fixtures that several rooms share: a trained model, a model server, and a client of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import forked, lanes, processes
from tests.support.processes import Running

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # as in the rooms; halves the import time

CHROMIUM = "/usr/bin/chromium"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the files that `make quick` leaves out."""
    is_left_out = config.getoption("markexpr") == "not slow" and lanes.is_slow(collection_path)
    return True if is_left_out else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lanes.mark_and_order(items)


def skip_or_fail(reason: str) -> None:
    """Skip a test, or fail it if REQUIRE_ALL is set."""
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"{reason}, and REQUIRE_ALL is set")
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _check_exports_in_forks() -> None:
    """Check exports in forked processes, so that TensorFlow is not imported for each check.

    Tests that run `python -m training` still check exports in a separate process.
    """
    forked.check_exports_in_forks()


@pytest.fixture(scope="session")
def docker_engine() -> None:
    if shutil.which("docker") is None:
        skip_or_fail("docker is not installed")
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            skip_or_fail(f"`{' '.join(command)}` fails, so there is no Docker engine to use")


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("google-chrome") or CHROMIUM
    if not Path(path).exists():
        skip_or_fail("chromium is not installed")
    return path


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Yield a folder that all workers of this run share, holding its lock."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def trained_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with breast_cancer/1, written by the training job. Do not write to it."""
    with shared_folder(tmp_path_factory, "trained") as folder:
        models = folder / "trained"
        if not (models / "breast_cancer" / "1").exists():
            result = forked.fit(models)
            assert result.returncode == 0, result.stderr
    return models


@pytest.fixture
def models(trained_models: Path, tmp_path: Path) -> Path:
    """A copy of the trained models that a test may change."""
    return Path(shutil.copytree(trained_models, tmp_path / "models"))


@dataclass
class Starter:
    """Starts processes that end with the test."""

    folder: Path
    running: list[Running]

    def model_server(self, *flags: str, port: int = 0) -> Running:
        log = self.folder / f"serving-{len(self.running)}.log"
        self.running.append(forked.start_model_server(log, *flags, port=port))
        return self.running[-1]

    def client(self, server: str, *, ready: bool = True, **environment: str) -> Running:
        log = self.folder / f"client-{len(self.running)}.log"
        start = processes.start_client if "CLIENT_WORKERS" in environment else forked.start_client
        self.running.append(start(log, server, ready=ready, **environment))
        return self.running[-1]

    def stop(self) -> None:
        """Stop the processes, the last started first."""
        for running in reversed(self.running):
            running.stop()

    def command(self, command: list[str], **environment: str) -> Running:
        log = self.folder / f"command-{len(self.running)}.log"
        self.running.append(processes.start(command, log, **environment))
        return self.running[-1]


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path, [])
    yield starter
    starter.stop()


@pytest.fixture(scope="session")
def model_server(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a model server that serves breast_cancer/1."""
    log = tmp_path_factory.mktemp("serving") / "log"
    running = forked.start_model_server(
        log, "--model_name=breast_cancer", f"--model_base_path={trained_models / 'breast_cancer'}"
    )
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    yield running.address
    assert running.stop() == 0, running.output()


@pytest.fixture(scope="session")
def client_url(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a client of that model server."""
    running = forked.start_client(tmp_path_factory.mktemp("client") / "log", model_server)
    yield running.address
    assert running.stop() == 0, running.output()
