"""Starts the project's own commands for tests, on loopback and on ports the system picks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"Running gRPC ModelServer at \S+?:(\d+) ")
START_SECONDS = 60


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Running:
    """A process under test, with everything it has printed."""

    process: Process
    log: Path
    address: str = ""

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = 15) -> int:
        """Send a signal, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def start(command: list[str], log: Path, **environment: str) -> Running:
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # Like a shell: Ctrl-C in one command is not Ctrl-C in the tests.
            start_new_session=True,
        )
    return Running(process, log)


def start_model_server(log: Path, *flags: str, port: int = 0) -> Running:
    """Start `python -m serving` and wait until its port is open."""
    command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}"]
    running = start([*command, *flags], log)
    running.address = listening_address(running)
    return running


@contextmanager
def model_server(folder: Path, config: str, *flags: str) -> Iterator[str]:
    """Yield the address of a model server with the models of a config, and stop it afterwards.

    Args:
        folder: for the config's file and the log.
        config: a ModelServerConfig in text format.
        flags: further ones.
    """
    file = folder / "models.config"
    file.write_text(config)
    running = start_model_server(folder / "log", f"--model_config_file={file}", *flags)
    try:
        wait_for(lambda: is_serving(running.address), "the models are loaded")
        yield running.address
    finally:
        assert running.stop() == 0, running.output()


def listening_address(model_server: Running) -> str:
    """Wait until a model server's gRPC port is open, and return its address."""

    def listening() -> bool:
        assert model_server.process.poll() is None, model_server.output()
        return LISTENING.search(model_server.output()) is not None

    wait_for(listening, "the model server listens")
    match = LISTENING.search(model_server.output())
    assert match is not None
    return f"127.0.0.1:{match[1]}"


def is_serving(address: str) -> bool:
    """Query the standard gRPC health service."""
    with grpc.insecure_channel(address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def start_client(log: Path, server: str, *, ready: bool = True, **environment: str) -> Running:
    """Start `python -m client serve` and wait until it is ready, or at least alive."""
    port = free_port()
    command = [sys.executable, "-m", "client", "serve", f"--port={port}", f"--server={server}"]
    running = start(command, log, **environment)
    running.address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert running.process.poll() is None, running.output()
        try:
            path = "readyz" if ready else "livez"
            return requests.get(f"{running.address}/{path}", timeout=5).ok
        except requests.ConnectionError:
            return False

    wait_for(answers, f"the client is up: {running.output()}")
    return running


@contextmanager
def client(log: Path, server: str, *, ready: bool = True, **environment: str) -> Iterator[str]:
    """Yield the URL of a client, and stop it afterwards."""
    running = start_client(log, server, ready=ready, **environment)
    try:
        yield running.address
    finally:
        assert running.stop() == 0, running.output()


def training(command: str, models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `python -m training`."""
    arguments = [sys.executable, "-m", "training", command, f"--models={models}", *options]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def fit(models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return training("fit", models, *options)
