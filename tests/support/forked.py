"""Processes forked from one that has imported TensorFlow, which takes seconds.

Apart from the imports, they behave like `python -m serving`, `python -m client serve` and the
training job with its export check. Each has its own process, session and log.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import IO, Any

from tests.support import processes
from tests.support.processes import Running, listening_address
from training.publishing import fresh_process

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.with_tensorflow"])


class Forked:
    """The part of `subprocess.Popen` that tests use, from any thread."""

    # Starting a process also reaps those that have ended, which two threads must not do at once.
    _lock = threading.Lock()

    def __init__(self, process: ForkServerProcess) -> None:
        with self._lock:
            process.start()
        assert process.pid is not None
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("python -m serving", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(log: Path, *flags: str) -> Running:
    """Start a model server with these flags, without waiting for it."""
    log.touch()
    process = _context.Process(target=_serve, args=(str(log), flags), daemon=True)
    return Running(Forked(process), log)


def start_model_server(log: Path, *flags: str, port: int = 0) -> Running:
    """Start a model server as `processes.start_model_server` does, in a tenth of the time."""
    running = start(log, "--bind_address=127.0.0.1", f"--port={port}", *flags)
    running.address = listening_address(running)
    return running


@contextmanager
def model_server(folder: Path, config: str, *flags: str) -> Iterator[str]:
    """Yield the address of a model server with the models of a config; stop it afterwards.

    Args:
        folder: folder of the config file and of the log.
        config: a ModelServerConfig in text format.
        flags: further flags.
    """
    file = folder / "models.config"
    file.write_text(config)
    running = start_model_server(folder / "log", f"--model_config_file={file}", *flags)
    try:
        processes.wait_for(lambda: processes.is_serving(running.address), "the models are loaded")
        yield running.address
    finally:
        assert running.stop() == 0, running.output()


def start_client(log: Path, server: str, *, ready: bool = True, **environment: str) -> Running:
    """Start a client with one worker as `processes.start_client` does.

    Several workers share metrics through an environment variable that is read at import.
    """
    log.touch()
    options = processes.client_options(server)
    arguments = (str(log), options, {**os.environ, **environment})
    process = _context.Process(target=_serve_http, args=arguments, daemon=True)
    running = Running(Forked(process), log)
    processes.wait_for_client(running, options, ready=ready)
    return running


@contextmanager
def client(log: Path, server: str, *, ready: bool = True, **environment: str) -> Iterator[str]:
    """Yield the URL of a client; stop it afterwards."""
    running = start_client(log, server, ready=ready, **environment)
    try:
        yield running.address
    finally:
        assert running.stop() == 0, running.output()


def _serve_http(log: str, options: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    _redirect_output(log, log)
    os.environ.clear()
    os.environ.update(environment)

    from client.__main__ import main

    main(options, prog_name="python -m client")


def _redirect_output(out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def _serve(log: str, flags: tuple[str, ...]) -> None:
    os.setsid()
    _redirect_output(log, log)

    from serving.__main__ import main

    main(list(flags), prog_name="python -m serving")


def training(command: str, models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `processes.training` does, in a forked process."""
    arguments = [command, f"--models={models}", *options]
    with TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("out", "err")]
        # Not a daemon, since it has a child: the check.
        process = Forked(_context.Process(target=_train, args=(arguments, *files)))
        status = process.wait()
        out, err = (Path(name).read_text() for name in files)
    return subprocess.CompletedProcess(arguments, status, out, err)


def fit(models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return training("fit", models, *options)


def _train(arguments: list[str], out: str, err: str) -> None:
    os.setsid()
    _redirect_output(out, err)
    check_exports_in_forks()

    from training.__main__ import main

    main(arguments, prog_name="python -m training")


def check_exports_in_forks() -> None:
    """Make this process check its exports in forked processes."""
    vars(fresh_process)["subprocess"] = SimpleNamespace(
        **{**vars(subprocess), "Popen": ForkedCheck}
    )


class ForkedCheck:
    """The part of `subprocess.Popen` that `training.publishing.fresh_process` uses."""

    returncode: int

    def __init__(self, command: tuple[str, ...], stderr: IO[bytes], **options: Any) -> None:
        module = command[-1]
        request, self._stdin = _context.Pipe(duplex=False)
        # A connection is passed at the start, so the child does not request it from this process;
        # such a request fails with a traceback if the child is killed meanwhile.
        with request, Connection(os.dup(stderr.fileno())) as errors:
            process = _context.Process(target=_run, args=(module, request, errors), daemon=True)
            self._process = Forked(process)

    def communicate(self, data: bytes = b"") -> None:
        with suppress(OSError), self._stdin:  # the process may have ended
            self._stdin.send_bytes(data)
        self.returncode = self._process.wait()

    def kill(self) -> None:
        self._process.kill()


def _run(module: str, request: Connection, errors: Connection) -> None:
    os.setsid()
    os.dup2(errors.fileno(), 2)
    try:
        sys.stdin = io.StringIO(request.recv_bytes().decode())
    except EOFError:
        sys.exit(0)
    runpy.run_module(module, run_name="__main__")
