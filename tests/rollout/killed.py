"""Controllers that are killed at each of their file operations, one after another.

Run as a program of its own, which forks: `python -m tests.rollout.killed DIRECTORY`. It prints the
number of moments at which one was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

from rollout import actions
from rollout.controller import Controller, utc_now
from rollout.evidence import Evidence
from rollout.model_config import model_config
from rollout.state import Rollout
from rollout.store import Store

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.truncate", "fcntl.flock")
GENERATIONS = (1, 2, 3, 4, 5)


def controller(directory: Path) -> Controller:
    return Controller(Store(directory / "state"), directory, "m", [], [])


def act(directory: Path) -> None:
    """Take a version from its start to its promotion, and back."""
    at = controller(directory)
    at.change(
        lambda state, now: actions.start(
            state, 2, [1, 2], now, "start", steps=(5.0,), bake=1.0, tolerance=5.0, hold=1.0
        )
    )
    at.change(lambda state, now: state.move_to_step(now, "step", 0))
    with at.store.locked(utc_now()):
        at.store.write_evidence("m", Evidence("salt", utc_now()).to_json())
    at.change(lambda state, now: state.promote(now, "promote"))
    at.change(lambda state, now: state.roll_back(now, "back"))


def die_at(operation: int) -> None:
    """Kill this process at its n-th file operation from now on."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS:
            return
        seen += 1
        if seen == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at(operation: int, directory: Path) -> bool:
    """Act in a process that is killed; return False if it had ended before."""
    if not (child := os.fork()):
        die_at(operation)
        act(directory)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, (operation, status)
    return False


def check(directory: Path) -> None:
    """Check that the next controller finds a whole state, and completes what follows from it."""
    at = controller(directory)
    before = at.store.read("m", utc_now())
    assert before is not None
    assert at.change(lambda state, now: state) == before
    lines = at.store.history("m").read_text().splitlines()
    states = [json.loads(line) for line in lines]
    assert [each["generation"] for each in states] == list(GENERATIONS[: before.generation])
    assert states[-1] == json.loads(json.dumps(before.as_json()))
    assert at.store.config.read_text() == model_config([before])
    assert before.stable == (2 if before.phase == "promoted" else 1)
    # The directory is no more locked than before, and goes on.
    after = at.change(lambda state, now: replace(state, generation=state.generation + 1))
    assert isinstance(at.store.read("m", utc_now()), Rollout)
    assert after.generation == before.generation + 1


def main(directory: Path) -> None:
    # A kill, unlike a power cut, loses nothing that was written; syncing would only take time.
    os.fsync = lambda fd: None
    (directory / "m" / "1").mkdir(parents=True)
    for operation in count(1):
        shutil.rmtree(directory / "state", ignore_errors=True)
        controller(directory).change(lambda state, now: state)
        killed = killed_at(operation, directory)
        check(directory)
        if not killed:
            print(operation - 1)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
