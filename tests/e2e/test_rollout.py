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
from tests.e2e.test_make_run import make_run, process_tree, stop_with_ctrl_c
from tests.e2e.test_readme import commands
from tests.support.processes import ROOT, Running, wait_for

PAGE = "docs/rollout.md"
FAULTY = "examples.rollout.faulty"
# A verdict needs many calls, which take longer on a busy machine.
VERDICT_SECONDS = 90


def run(command: str, models: Path, *options: str) -> str:
    """Run a command of the page on the models of a test."""
    words = shlex.split(command.replace(".venv/bin/python", sys.executable))
    if "training" in words or "rollout" in words:
        words += [f"--models={models}", *options]
    words = [word.replace("models/.rollout", str(models / ".rollout")) for word in words]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def make_version(command: str, models: Path) -> Path:
    """Run a command that makes version 2 of these models and return its directory."""
    if FAULTY in command:  # in this process, which imports TensorFlow once for all faults
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [FAULTY, command.split()[-1], str(models / "breast_cancer")])
            runpy.run_module(FAULTY, run_name="__main__")
    else:
        run(command, models)
    return models / "breast_cancer" / "2"


def read_state(models: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((models / ".rollout" / "breast_cancer.json").read_text())
    return state


def publish(version: Path, models: Path, number: int) -> None:
    """Publish a version as the commands do, by renaming it."""
    version.rename(models / "breast_cancer" / str(number))


def wait_for_phase(models: Path, number: int, phase: str) -> str:
    """Wait until a version's rollout reaches a phase and return the reason."""

    def reached() -> bool:
        state = read_state(models)
        return (state["phase"], state["seen"]) == (phase, number)

    wait_for(reached, f"version {number} is {phase}", VERDICT_SECONDS)
    return str(read_state(models)["reason"])


@pytest.mark.timeout(600)
def test_rollout_walk_through_works(models: Path, tmp_path: Path, starter: Starter) -> None:
    first, load, fit, crashing, swapped, slow, start, status, show = commands(PAGE, "Walk-through")
    assert first.startswith("make run ")
    publishing = {"fit": fit, "crashing": crashing, "swapped": swapped, "slow": slow}
    assert all(name in command for name, command in publishing.items())
    copies = [Path(shutil.copytree(models, tmp_path / name)) for name in publishing]
    with ThreadPoolExecutor(1) as pool:
        # Versions are made while the services start, and published one after another.
        versions = pool.map(make_version, publishing.values(), copies)
        running, url = make_run(starter, models, *first.split()[2:])
        addresses = f"--gateways={url}", f"--servers={rest_url(running)}"
        caller = starter.command(
            [*shlex.split(load.replace(".venv/bin/python", sys.executable)), url]
        )
        wait_for(lambda: "version 1: " in caller.output(), "version 1 answers")
        publish(next(versions), models, 2)
        wait_for_phase(models, 2, "promoted")
        publish(next(versions), models, 3)
        crash_reason = wait_for_phase(models, 3, "rolled_back")
        publish(next(versions), models, 4)
        flip_reason = wait_for_phase(models, 4, "rolled_back")
        publish(next(versions), models, 5)
        wait_for_phase(models, 5, "shadow")
        assert "version 5: 50%" in run(start, models, *addresses)
        delay_reason = wait_for_phase(models, 5, "rolled_back")
    assert re.search(r"version 3: .* calls failed, against 0 of .*, e .* ≥ ", crash_reason)
    assert re.search(
        r"version 4: .* rows got a different label in shadow, .*, e .* ≥ ", flip_reason
    )
    assert re.search(r"version 5: .* took longer than .* of control\), against .* ≥ ", delay_reason)
    assert read_state(models)["stable"] == 2

    assert caller.stop() == 0, caller.output()
    summary = caller.output().splitlines()[-1]
    # The slow version has answered some calls as a canary; the others were rejected in shadow.
    assert re.fullmatch(r"version 1: \d+, version 2: \d+, version 5: \d+; failed: 0", summary)
    assert "version 2" in run(status, models, *addresses)
    phases = [json.loads(line)["phase"] for line in run(show, models).splitlines()]
    assert phases[:5] == ["idle", "loading", "shadow", "canary", "promoted"]
    assert phases.count("rolled_back") >= 3
    stop_with_ctrl_c(running)


def rest_url(running: Running) -> str:
    """Return the URL of the model server's REST port, which its command line names."""
    commands = [" ".join(process.cmdline()) for process in process_tree(running)]
    (port,) = {
        match[1] for line in commands if (match := re.search(r"--rest_api_port=(\d+)", line))
    }
    return f"http://127.0.0.1:{port}"
