"""The command line of `make run`: train a model if there is none, serve it, open the endpoint."""

from __future__ import annotations

import os
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
    "(TF_SERVING_IMAGE selects another image).",
)
@click.option(
    "--rollout",
    type=click.Choice(["off", "auto"]),
    default="off",
    help="auto: shift traffic to new versions step by step, and roll back those that are worse "
    "(`python -m rollout --help`).",
)
@click.option(
    "--rollout-steps",
    default="shadow,5,25,50",
    help="Rollout steps: shadow, or the percentage of requests for the new version.",
)
@click.option("--rollout-bake", default="10m", help="Minimum time at each step.")
def main(
    host: str,
    port: int,
    serving_port: int,
    models: Path,
    model: str,
    server: str,
    rollout: str,
    rollout_steps: str,
    rollout_bake: str,
) -> None:
    """Train a model if there is none, serve it, and open the HTTP endpoint on this machine."""
    started = time.monotonic()
    models = models.resolve()
    # Do not suggest SERVING_PORT for PORT; the second check reports equal ports.
    ports.check_port("PORT", host, port, in_use={serving_port} - {port})
    ports.check_port("SERVING_PORT", SERVER_HOST, serving_port, in_use=[port])
    base_path = models / model
    server_address = ports.address(SERVER_HOST, serving_port)
    client = [*_module_command("client"), "serve", f"--host={host}", f"--port={port}"]
    client += [f"--model={model}", f"--server={server_address}"]
    os.environ.setdefault("CLIENT_REPORTS", str(models))
    url = f"http://{ports.address(ports.reachable_address(host), port)}"
    serving = _serving_command(server, serving_port, models, model)
    programs = {"serving": serving, "client": client}
    if server == "docker":
        _run([*serving, "--check"])
    if model in TRAINABLE:
        fit = ["fit", f"--models={models}", f"--data={model}", "--unless-published"]
        _run([*_module_command("training"), *fit])
    elif not any(base_path.glob("[0-9]*")):
        raise click.ClickException(
            f"{base_path} has no version; expected a SavedModel at {base_path}/1"
        )
    if rollout == "auto":
        # 8501 by default, where `python -m rollout` expects it.
        rest_port = ports.next_free_port(SERVER_HOST, serving_port, in_use=[port])
        if rest_port is None:
            raise click.ClickException(f"no port above SERVING_PORT={serving_port} is free")
        watch = _add_rollout(serving, rest_port, url, models, model)
        programs["rollout"] = [*watch, f"--steps={rollout_steps}", f"--bake={rollout_bake}"]

    logs = ROOT / ".run" / str(port)
    signals = _record_signals()
    supervisor = Supervisor(programs, ROOT, logs)
    try:
        if _wait_until_ready(url, supervisor, signals):
            ready = f"Ready in {time.monotonic() - started:.1f} s."
            lines = summary(url, server_address, base_path, logs)
            click.echo(f"\n{ready}\n\n{lines}\n\nCtrl-C stops everything.")
            if warning := exposure_warning(host, port):
                click.echo(f"\n{warning}", err=True)
            _watch(url, supervisor, signals)
        if not signals:
            sys.exit(_report_failure(supervisor))
    finally:
        if signals:
            click.echo("stopping; requests in flight have up to 10 s")
        supervisor.stop()
    click.echo("stopped")


def _serving_command(server: str, port: int, models: Path, model: str) -> list[str]:
    if server == "docker":
        command = _module_command("launcher.container")
    else:
        command = [
            *_module_command("serving"),
            f"--bind_address={SERVER_HOST}",
            f"--reload_root={models}",
        ]
    model_flags = [f"--model_name={model}", f"--model_base_path={models / model}"]
    return [*command, f"--port={port}", *model_flags]


def _add_rollout(
    serving: list[str], rest_port: int, url: str, models: Path, model: str
) -> list[str]:
    """Configure server and client for rollouts, and return the rollout controller's command.

    Args:
        serving: the model server's command, to which flags are added.
        rest_port: HTTP port of the model server.
        url: URL of the client.
        models: directory of all models.
        model: name of the model.
    """
    directory = models / ".rollout"
    serving += [
        f"--model_config_file={directory / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        # Labels in a server's first configuration name versions that it has not loaded yet.
        "--allow_version_labels_for_unavailable_models=true",
        f"--rest_api_port={rest_port}",
        # Leave threads for the stable version if the new one hangs.
        "--grpc_max_threads=64",
    ]
    os.environ["CLIENT_ROLLOUT"] = str(directory)
    flags = [f"--models={models}", f"--model={model}"]
    _run([*_module_command("rollout"), "init", *flags])
    flags += [f"--servers=http://{ports.address(SERVER_HOST, rest_port)}", f"--gateways={url}"]
    return [*_module_command("rollout"), "watch", "--auto", *flags]


def _record_signals() -> list[int]:
    """Return a list to which each received SIGINT, SIGTERM or SIGHUP is appended."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: received.append(number))
    return received


def _wait_until_ready(url: str, supervisor: Supervisor, signals: list[int]) -> bool:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while not signals and supervisor.is_running():
        if is_ready(url):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return False


def _watch(url: str, supervisor: Supervisor, signals: list[int]) -> None:
    """Report changes in readiness until a signal arrives or the supervisor ends."""
    ready = True
    checked_at = time.monotonic()
    while not signals and supervisor.is_running():
        time.sleep(POLL_SECONDS)
        if time.monotonic() - checked_at < WATCH_SECONDS:
            continue
        was_ready, ready = ready, is_ready(url)
        checked_at = time.monotonic()
        if ready != was_ready and not signals:
            click.echo("ready again" if ready else f"not ready, see {supervisor.logs}")


def _module_command(name: str) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-m", name]


def _run(command: list[str]) -> None:
    """Run a command that reports its own errors; exit with its status if it fails."""
    if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(status)


def _report_failure(supervisor: Supervisor) -> int:
    """Print why the programs are not ready and the ends of their logs; return the exit status."""
    running = supervisor.is_running()
    reason = f"not ready after {READY_TIMEOUT_SECONDS} s" if running else "the supervisor ended"
    click.echo(f"Error: {reason}; the last lines of the logs in {supervisor.logs}:", err=True)
    click.echo(supervisor.last_lines(), err=True)
    return 1


if __name__ == "__main__":
    main(prog_name="python -m launcher")
