"""The command line of `make run`: train if there is no model, serve it, open the HTTP endpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from launcher import ports
from launcher.summary import exposure_warning, is_ready, summary
from launcher.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[1]
# Listen on loopback only: anyone who can reach the model server can make it load models.
SERVER_HOST = "127.0.0.1"
READY_TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.1
WATCH_SECONDS = 1.0
TRAINABLE = ("breast_cancer", "customers")
PORT = click.IntRange(1, 65535)


@click.command(context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="Address on which the client listens.")
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
    help=f"Model to serve; {' and '.join(TRAINABLE)} are trained if they have no version.",
)
@click.option(
    "--server",
    type=click.Choice(["embedded", "docker"]),
    default="embedded",
    help="The embedded model server, or TensorFlow Serving in a container "
    "(TF_SERVING_IMAGE names another image).",
)
def main(host: str, port: int, serving_port: int, models: Path, model: str, server: str) -> None:
    """Train if there is no model, serve it, and open the HTTP endpoint on this machine."""
    started = time.monotonic()
    ports.check_port("PORT", host, port)
    ports.check_port("SERVING_PORT", SERVER_HOST, serving_port, in_use=[port])
    base_path = (models / model).resolve()
    serving = _serving_command(server, serving_port, models.resolve(), model)
    if server == "docker":
        _run([*serving, "--check"])
    if model in TRAINABLE:
        fit = ["fit", f"--models={models}", f"--data={model}", "--unless-published"]
        _run([*_room("training"), *fit])
    elif not any(base_path.glob("[0-9]*")):
        raise click.ClickException(
            f"{base_path} has no version; expected a SavedModel at {base_path}/1"
        )
    server_address = ports.address(SERVER_HOST, serving_port)
    client = [*_room("client"), "serve", f"--host={host}", f"--port={port}", f"--model={model}"]
    client.append(f"--server={server_address}")

    logs = ROOT / ".run" / str(port)
    url = f"http://{ports.address(ports.local(host), port)}"
    stop = _stop_on_signals()
    supervisor = Supervisor(serving, client, ROOT, logs)
    try:
        if _wait_until_ready(url, supervisor, started, stop):
            ready = f"Ready in {time.monotonic() - started:.1f} s."
            lines = summary(url, server_address, base_path, logs)
            click.echo(f"\n{ready}\n\n{lines}\n\nCtrl-C stops everything.")
            if warning := exposure_warning(host, port):
                click.echo(f"\n{warning}", err=True)
            _watch(url, supervisor, stop)
        if not stop:
            sys.exit(_fail(supervisor))
    finally:
        supervisor.stop()
    click.echo("stopped")


def _serving_command(server: str, port: int, models: Path, model: str) -> list[str]:
    if server == "docker":
        command = _room("launcher.container")
    else:
        command = [
            *_room("serving"),
            f"--bind_address={SERVER_HOST}",
            f"--reload_root={models}",
        ]
    model_flags = [f"--model_name={model}", f"--model_base_path={models / model}"]
    return [*command, f"--port={port}", *model_flags]


def _stop_on_signals() -> list[int]:
    """Return a list that receives the numbers of the signals that ask this process to stop."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: received.append(number))
    return received


def _wait_until_ready(url: str, supervisor: Supervisor, started: float, stop: list[int]) -> bool:
    while not stop and supervisor.is_running():
        if is_ready(url):
            return True
        if time.monotonic() - started > READY_TIMEOUT_SECONDS:
            return False
        time.sleep(POLL_SECONDS)
    return False


def _watch(url: str, supervisor: Supervisor, stop: list[int]) -> None:
    """Report changes of readiness until a signal arrives or the supervisor ends."""
    ready = True
    checked = time.monotonic()
    while not stop and supervisor.is_running():
        time.sleep(POLL_SECONDS)
        if time.monotonic() - checked < WATCH_SECONDS:
            continue
        was_ready, ready = ready, is_ready(url)
        checked = time.monotonic()
        if ready != was_ready and not stop:
            click.echo("ready again" if ready else f"not ready, see {supervisor.logs}")


def _room(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _run(command: list[str]) -> None:
    """Run a command that reports its own errors; end with its exit status if it fails."""
    if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(status)


def _fail(supervisor: Supervisor) -> int:
    running = supervisor.is_running()
    reason = f"not ready after {READY_TIMEOUT_SECONDS} s" if running else "the supervisor ended"
    click.echo(f"Error: {reason}; the last lines of the logs in {supervisor.logs}:", err=True)
    click.echo(supervisor.last_lines(), err=True)
    return 1


if __name__ == "__main__":
    main(prog_name="python -m launcher")
