"""Starts the project's commands for tests, on loopback and ports that the system picks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
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
    """A process under test, and the log with its output."""

    process: Process
    log: Path
    address: str = ""

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = 15) -> int:
        """Send a signal and return the exit status."""
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


def wait_for(
    condition: Callable[[], object], description: str, seconds: float = START_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {description}"
        time.sleep(0.05)


def start(command: list[str], log: Path, **environment: str) -> Running:
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # As in a shell, Ctrl-C in the tests does not reach the command.
            start_new_session=True,
        )
    return Running(process, log)


def start_model_server(log: Path, *flags: str, port: int = 0) -> Running:
    """Start `python -m serving` and wait until its port is open."""
    command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}"]
    running = start([*command, *flags], log)
    running.address = listening_address(running)
    return running


def listening_address(model_server: Running) -> str:
    """Wait until a model server's gRPC port is open and return its address."""

    def is_listening() -> bool:
        assert model_server.process.poll() is None, model_server.output()
        return LISTENING.search(model_server.output()) is not None

    wait_for(is_listening, "the model server listens")
    match = LISTENING.search(model_server.output())
    assert match is not None
    return f"127.0.0.1:{match[1]}"


def is_serving(address: str) -> bool:
    """Query the standard gRPC health service."""
    with grpc.insecure_channel(address) as channel:
        response = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def start_client(log: Path, server: str, *, ready: bool = True, **environment: str) -> Running:
    """Start `python -m client serve` and wait until it is ready, or at least alive."""
    options = client_options(server)
    running = start([sys.executable, "-m", "client", *options], log, **environment)
    wait_for_client(running, options, ready=ready)
    return running


def client_options(server: str) -> list[str]:
    return ["serve", f"--port={free_port()}", f"--server={server}"]


def wait_for_client(running: Running, options: list[str], *, ready: bool) -> None:
    """Set the address of a starting client and wait until it is ready, or at least alive."""
    running.address = f"http://127.0.0.1:{options[1].partition('=')[2]}"

    def is_up() -> bool:
        assert running.process.poll() is None, running.output()
        try:
            path = "readyz" if ready else "livez"
            return requests.get(f"{running.address}/{path}", timeout=5).ok
        except requests.ConnectionError:
            return False

    wait_for(is_up, f"the client is up: {running.output()}")


def training(command: str, models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `python -m training`."""
    arguments = [sys.executable, "-m", "training", command, f"--models={models}", *options]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def fit(models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return training("fit", models, *options)
