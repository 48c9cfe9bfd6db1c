"""`make run`: train if there is no model, serve it, and open the HTTP endpoint.

The rooms are started as the commands a user would type and know nothing of one another.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
READY_TIMEOUT_SECONDS = 120
# supervisord gives a process two seconds before it kills it.
STOP_TIMEOUT_SECONDS = 6
WATCH_SECONDS = 1.0
TRAINABLE = ("breast_cancer", "customers")
LOG_LINES_SHOWN = 15
PORT = click.IntRange(1, 65535)


@click.command(context_settings={"show_default": True})
@click.option("--port", type=PORT, default=8080, help="HTTP port of the client.")
@click.option("--serving-port", type=PORT, default=8500, help="gRPC port of the model server.")
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default="models",
    help="Directory of all models.",
)
@click.option(
    "--model",
    default="breast_cancer",
    help=f"Model to serve; {' and '.join(TRAINABLE)} are trained if they are not there.",
)
@click.option(
    "--server",
    type=click.Choice(["embedded", "docker"]),
    default="embedded",
    help="Our model server, or TensorFlow Serving in a container (TF_SERVING_IMAGE names another).",
)
def main(port: int, serving_port: int, models: Path, model: str, server: str) -> None:
    """Train if there is no model, serve it, and open the HTTP endpoint on this machine."""
    started = time.monotonic()
    for name, number in (("--port", port), ("--serving-port", serving_port)):
        _check_port(name, number)
    base_path = (models / model).resolve()
    serving = {
        "embedded": [
            *_room("serving"),
            f"--bind_address={HOST}",
            f"--reload_root={models.resolve()}",
        ],
        "docker": _room("launcher.container"),
    }[server]
    serving += [
        f"--port={serving_port}",
        f"--model_name={model}",
        f"--model_base_path={base_path}",
    ]
    if server == "docker":
        _run([*serving, "--check"])
    if model in TRAINABLE:
        _run(
            [
                *_room("training"),
                "fit",
                f"--models={models}",
                f"--data={model}",
                "--unless-published",
            ]
        )
    elif not any(base_path.glob("[0-9]*")):
        raise click.ClickException(
            f"{base_path} has no version; expected a SavedModel at {base_path}/1"
        )
    client = [*_room("client"), "serve", f"--host={HOST}", f"--port={port}", f"--model={model}"]
    client += [f"--server={HOST}:{serving_port}"]

    logs = ROOT / ".run" / str(port)
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("*.log*"):
        old.unlink()
    address = f"{HOST}:{serving_port}"
    sys.exit(_supervise(serving, client, logs, f"http://{HOST}:{port}", address, model, started))


def _supervise(
    serving: list[str],
    client: list[str],
    logs: Path,
    url: str,
    server: str,
    model: str,
    started: float,
) -> int:
    environment = {
        **os.environ,
        "RUN_SERVING": shlex.join(_ending_with_parent(serving)),
        "RUN_CLIENT": shlex.join(_ending_with_parent(client)),
        "RUN_LOGS": str(logs),
    }
    stopped = False

    def stop(signal_number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, stop)
    configuration = ROOT / "launcher" / "supervisord.conf"
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
    supervisor = subprocess.Popen(
        _ending_with_parent(command),
        cwd=ROOT,
        env=environment,
        # Ctrl-C reaches the whole foreground group; whom to stop and how is supervisord's matter.
        start_new_session=True,
    )
    announced = ready = False
    checked = 0.0
    try:
        while not stopped and supervisor.poll() is None:
            time.sleep(0.1)
            if announced and time.monotonic() - checked < WATCH_SECONDS:
                continue
            was_ready, ready = ready, _is_ready(url)
            checked = time.monotonic()
            if ready and not announced:
                _announce(url, server, model, logs, checked - started)
                announced = True
            elif ready != was_ready and not stopped:
                click.echo("ready again" if ready else f"not ready, see {logs}")
            if not announced and checked - started > READY_TIMEOUT_SECONDS:
                return _fail(logs, f"not ready after {READY_TIMEOUT_SECONDS} s")
        return 0 if stopped else _fail(logs, "the supervisor ended")
    finally:
        supervisor.terminate()
        try:
            supervisor.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            supervisor.kill()
        if stopped:
            click.echo("stopped")


def _ending_with_parent(command: list[str]) -> list[str]:
    """Let a command get SIGTERM when its parent is killed, where the system can do that."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", *command] if setpriv else command


def _check_port(option: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            variable = option.removeprefix("--").replace("-", "_").upper()
            raise click.ClickException(
                f"port {port} is taken ({error.strerror}); "
                f"choose another: make run {variable}={port + 1}"
            ) from error


def _room(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _run(command: list[str]) -> None:
    """Run a command that says itself what went wrong."""
    if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(status)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _announce(url: str, server: str, model: str, logs: Path, seconds: float) -> None:
    row = json.dumps({"instances": [_example_row(url, model)]})
    click.echo(
        f"\nReady in {seconds:.1f} s.\n\n"
        f"  page     {url}/\n"
        f"  predict  curl -s {url}/predict -d {shlex.quote(row)}\n"
        f"  metrics  {url}/metrics\n"
        f"  gRPC     {server}\n"
        f"  logs     {logs}\n\n"
        "Ctrl-C stops everything."
    )


def _example_row(url: str, model: str) -> Any:
    """Return a typical row of the model's first class, which the model itself tells."""
    question = {"signature_name": "describe", "instances": [0]}
    request = urllib.request.Request(
        f"{url}/v1/models/{model}:predict", data=json.dumps(question).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return list(_typical_values(json.load(reply)["predictions"][0]))
    except (OSError, KeyError, TypeError):
        return "..."  # a model of somebody else's that has no description


def _typical_values(description: dict[str, Any]) -> Iterator[Any]:
    vocabulary = iter(description["vocabulary_values"])
    for kind, length, mean, mode in zip(
        description["kinds"],
        description["vocabulary_lengths"],
        description["class_means"][0],
        description["class_modes"][0],
        strict=True,
    ):
        values = list(islice(vocabulary, length))
        if kind == "numeric":
            yield float(f"{mean:.4g}")
        elif kind == "boolean":
            yield values[mode] == "true"
        else:
            yield int(values[mode]) if values[mode].isdecimal() else values[mode]


def _fail(logs: Path, reason: str) -> int:
    click.echo(f"Error: {reason}; the last lines of the logs in {logs}:", err=True)
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        click.echo("\n".join([f"--- {log.name}", *lines]), err=True)
    return 1


if __name__ == "__main__":
    main(prog_name="python -m launcher")
