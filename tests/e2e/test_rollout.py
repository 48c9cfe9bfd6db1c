"""The walk-through of docs/rollout.md, under load, with the gateway and the model server."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Starter
from tests.e2e.test_make_run import make_run, stop_with_ctrl_c, tree
from tests.e2e.test_readme import commands
from tests.support.processes import ROOT, Running, wait_for

PAGE = "docs/rollout.md"
FAULTY = "examples.rollout.faulty"
# Verdicts need the calls of several seconds on a busy machine.
SECONDS = 90


def run(command: str, models: Path, *more: str) -> str:
    """Run a command of the page on the models of this test."""
    words = shlex.split(command.replace(".venv/bin/python", sys.executable))
    if "training" in words or "rollout" in words:
        words += [f"--models={models}", *more]
    words = [word.replace("models/.rollout", str(models / ".rollout")) for word in words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def made(command: str, models: Path) -> Path:
    """Run a command that makes version 2 of these models, and return the version."""
    if FAULTY in command:  # in this process, which imports TensorFlow once for all faults
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [FAULTY, command.split()[-1], str(models / "breast_cancer")])
            runpy.run_module(FAULTY, run_name="__main__")
    else:
        run(command, models)
    return models / "breast_cancer" / "2"


def state(models: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((models / ".rollout" / "breast_cancer.json").read_text())
    return found


def publish(version: Path, models: Path, number: int) -> None:
    """Publish a version as the commands do, by renaming it."""
    version.rename(models / "breast_cancer" / str(number))


def reason(models: Path, number: int, phase: str) -> str:
    """Wait until the rollout of a version has reached a phase, and return why."""

    def reached() -> bool:
        found = state(models)
        return (found["phase"], found["seen"]) == (phase, number)

    wait_for(reached, f"version {number} is {phase}", SECONDS)
    return str(state(models)["reason"])


@pytest.mark.timeout(600)
def test_the_walk_through(models: Path, tmp_path: Path, starter: Starter) -> None:
    first, load, fit, crashing, swapped, slow, start, status, show = commands(PAGE, "Walk-through")
    assert first.startswith("make run ")
    publishing = {"fit": fit, "crashing": crashing, "swapped": swapped, "slow": slow}
    assert all(name in command for name, command in publishing.items())
    copies = [Path(shutil.copytree(models, tmp_path / name)) for name in publishing]
    with ThreadPoolExecutor(1) as pool:
        # Versions are made while the services start, and published one after another.
        versions = pool.map(made, publishing.values(), copies)
        running, url = make_run(starter, models, *first.split()[2:])
        where = f"--gateways={url}", f"--servers={rest_url(running)}"
        asking = starter.command(
            [*shlex.split(load.replace(".venv/bin/python", sys.executable)), url]
        )
        wait_for(lambda: "version 1: " in asking.output(), "answers")
        publish(next(versions), models, 2)
        reason(models, 2, "promoted")
        publish(next(versions), models, 3)
        crashed = reason(models, 3, "rolled_back")
        publish(next(versions), models, 4)
        flipped = reason(models, 4, "rolled_back")
        publish(next(versions), models, 5)
        reason(models, 5, "shadow")
        assert "version 5: 50%" in run(start, models, *where)
        delayed = reason(models, 5, "rolled_back")
    assert re.search(r"version 3: .* calls failed against 0 of .*, e .* ≥ ", crashed)
    assert re.search(r"version 4: .* rows got a different label in shadow, .*, e .* ≥ ", flipped)
    assert re.search(r"version 5: .* took longer than .* of control\) against .* ≥ ", delayed)
    assert state(models)["stable"] == 2

    assert asking.stop() == 0, asking.output()
    answered = asking.output().splitlines()[-1]
    # The slow version has answered some as a canary; the others were found out in shadow.
    assert re.fullmatch(r"version 1: \d+, version 2: \d+, version 5: \d+; failed: 0", answered)
    assert "version 2" in run(status, models, *where)
    phases = [json.loads(line)["phase"] for line in run(show, models).splitlines()]
    assert phases[:5] == ["idle", "loading", "shadow", "canary", "promoted"]
    assert phases.count("rolled_back") >= 3
    stop_with_ctrl_c(running)


def rest_url(running: Running) -> str:
    """Return the URL of the model server's REST port, by default that of `python -m rollout`."""
    commands = [" ".join(process.cmdline()) for process in tree(running)]
    (port,) = {
        found[1] for each in commands if (found := re.search(r"--rest_api_port=(\d+)", each))
    }
    return f"http://127.0.0.1:{port}"
