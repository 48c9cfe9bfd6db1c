"""`make run`, as used on a developer's machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import Starter
from tests.support.processes import ROOT, Running, free_port, wait_for

STOP_SECONDS = 5
READY = re.compile(r"Ready in [\d.]+ s")


def make_run(
    starter: Starter, models: Path, *arguments: str, **environment: str
) -> tuple[Running, str]:
    """Start `make run`, wait until it is ready, and return it with the client's URL."""
    ports = {"PORT": str(free_port()), "SERVING_PORT": str(free_port())}
    environment = {**ports, "MODELS": str(models), **environment}
    running = starter.command(["make", "run", *arguments], **environment)

    def ready() -> bool:
        assert running.process.poll() is None, running.output()
        return READY.search(running.output()) is not None

    wait_for(ready, "make run is ready", 240)
    return running, f"http://127.0.0.1:{environment['PORT']}"


def summary_value(running: Running, name: str) -> str:
    """Return the value of a name in the summary that `make run` prints."""
    lines = (line.split(maxsplit=1) for line in running.output().splitlines())
    return next(words[1] for words in lines if len(words) == 2 and words[0] == name)


def run_printed_curl(running: Running) -> str:
    """Run the request that `make run` printed and return the response."""
    curl = shlex.split(summary_value(running, "predict"))
    assert curl[0] == "curl"
    return subprocess.run(curl, capture_output=True, text=True, check=True).stdout


def process_tree(running: Running) -> list[psutil.Process]:
    parent = psutil.Process(running.process.pid)
    return [parent, *parent.children(recursive=True)]


def stop_with_ctrl_c(running: Running) -> float:
    """Interrupt every process of the foreground group, as a terminal does."""
    processes = process_tree(running)
    started = time.monotonic()
    foreground = os.getpgid(running.process.pid)
    for process in processes:
        if process.is_running() and os.getpgid(process.pid) == foreground:
            process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == [], f"left behind: {alive}"
    return time.monotonic() - started


def test_make_run_trains_once_serves_and_stops(tmp_path: Path, starter: Starter) -> None:
    models = tmp_path / "models"
    running, url = make_run(starter, models)
    assert [p.name for p in (models / "breast_cancer").iterdir()] == ["1"]
    assert requests.get(f"{url}/readyz", timeout=5).ok
    assert "diagnosis = benign?" in requests.get(url, timeout=5).text
    assert requests.get(f"{url}/reports/breast_cancer/1", timeout=5).ok

    assert '"label":"malignant"' in run_printed_curl(running)
    assert summary_value(running, "report") == str(models / "breast_cancer" / "1" / "report.html")
    assert "Warning" not in running.output()

    assert stop_with_ctrl_c(running) < STOP_SECONDS

    second, url = make_run(starter, models, "HOST=0.0.0.0")
    assert "nothing to train" in second.output()
    assert "HOST=0.0.0.0 lets other machines reach port" in second.output()
    elsewhere = url.replace("127.0.0.1", "127.0.0.2")
    assert requests.get(f"{elsewhere}/readyz", timeout=5).ok
    assert summary_value(second, "page") == f"{url}/"
    assert [p.name for p in (models / "breast_cancer").iterdir()] == ["1"]
    assert stop_with_ctrl_c(second) < STOP_SECONDS


def test_killed_process_is_restarted(models: Path, starter: Starter) -> None:
    running, url = make_run(starter, models)
    for room in ("serving", "client"):
        victims = [p for p in process_tree(running) if f"-m {room} " in " ".join(p.cmdline())]
        victims[0].kill()
        # Its children, if any, do not outlive it.
        _, alive = psutil.wait_procs(victims, timeout=5)
        assert alive == []

        def answers() -> bool:
            try:
                body = {"instances": [[1.0] * 30]}
                return requests.post(f"{url}/predict", json=body, timeout=5).ok
            except requests.ConnectionError:
                return False

        wait_for(answers, f"{room} is back", 30)
    stop_with_ctrl_c(running)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
@pytest.mark.parametrize("victim", ["launcher", "supervisor.supervisord"])
def test_no_process_outlives_its_supervisor(models: Path, starter: Starter, victim: str) -> None:
    running, _ = make_run(starter, models)
    processes = process_tree(running)
    (killed,) = [p for p in processes if victim in p.cmdline()]
    killed.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_missing_model_prints_a_one_line_error(tmp_path: Path) -> None:
    ports = {"PORT": str(free_port()), "SERVING_PORT": str(free_port())}
    result = subprocess.run(
        ["make", "run", "MODEL=nosuch"],
        cwd=ROOT, env={**os.environ, **ports, "MODELS": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert f"{tmp_path}/nosuch has no version; expected a SavedModel at" in result.stderr


@pytest.mark.parametrize("variable", ["PORT", "SERVING_PORT"])
def test_taken_port_prints_a_one_line_error(client_url: str, models: Path, variable: str) -> None:
    taken = client_url.rpartition(":")[2]
    ports = {"PORT": str(free_port()), "SERVING_PORT": str(free_port()), variable: taken}
    result = subprocess.run(
        ["make", "run"], cwd=ROOT, env={**os.environ, **ports, "MODELS": str(models)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert f"Error: port {taken} is taken" in result.stderr
    assert f"choose another: make run {variable}=" in result.stderr


def test_make_without_a_target_lists_targets() -> None:
    result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("install", "run", "quick", "test", "lint", "format", "bench", "lock", "clean"):
        assert f"make {target}" in result.stdout
