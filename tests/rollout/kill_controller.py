"""Kill a controller at each of its file operations, and check that the next one recovers.

This runs as a separate program because it forks: `python -m tests.rollout.kill_controller
DIRECTORY`. It prints the number of controllers that were killed.
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


def make_controller(directory: Path) -> Controller:
    return Controller(Store(directory / "state"), directory, "m", [], [])


def run_rollout(directory: Path) -> None:
    """Start a version, promote it, and roll it back."""
    controller = make_controller(directory)
    controller.change(
        lambda state, now: actions.start(
            state, 2, [1, 2], now, "start", steps=(5.0,), bake=1.0, tolerance=5.0, hold=1.0
        )
    )
    controller.change(lambda state, now: state.move_to_step(now, "step", 0))
    with controller.store.locked(utc_now()):
        controller.store.write_evidence("m", Evidence("salt", utc_now()).to_json())
    controller.change(lambda state, now: state.promote(now, "promote"))
    controller.change(lambda state, now: state.roll_back(now, "back"))


def kill_self_at(operation: int) -> None:
    """Kill this process at its n-th file operation from now."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS:
            return
        seen += 1
        if seen == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run_and_kill_at(operation: int, directory: Path) -> bool:
    """Run the rollout in a child that kills itself at an operation; return whether it died."""
    if not (child := os.fork()):
        kill_self_at(operation)
        run_rollout(directory)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, (operation, status)
    return False


def check_recovery(directory: Path) -> None:
    """Check that the next controller reads a valid state and completes the other files."""
    controller = make_controller(directory)
    before = controller.store.read("m", utc_now())
    assert before is not None
    assert controller.change(lambda state, now: state) == before
    lines = controller.store.history("m").read_text().splitlines()
    states = [json.loads(line) for line in lines]
    assert [state["generation"] for state in states] == list(GENERATIONS[: before.generation])
    assert states[-1] == json.loads(json.dumps(before.as_json()))
    assert controller.store.config.read_text() == model_config([before])
    assert before.stable == (2 if before.phase == "promoted" else 1)
    # The lock is released, and further changes are possible.
    after = controller.change(lambda state, now: replace(state, generation=state.generation + 1))
    assert isinstance(controller.store.read("m", utc_now()), Rollout)
    assert after.generation == before.generation + 1


def main(directory: Path) -> None:
    # Unlike a power failure, a kill loses no writes, so syncing would only take time.
    os.fsync = lambda fd: None
    (directory / "m" / "1").mkdir(parents=True)
    for operation in count(1):
        shutil.rmtree(directory / "state", ignore_errors=True)
        make_controller(directory).change(lambda state, now: state)
        was_killed = run_and_kill_at(operation, directory)
        check_recovery(directory)
        if not was_killed:
            print(operation - 1)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
