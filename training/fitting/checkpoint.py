"""Checkpoints of interrupted fits."""

from __future__ import annotations

import json
import os
import reprlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import ResumeError
from training.features.columns import Floats
from training.fitting.solvers import State

MEMORY_PREFIX = "memory."
# Raised by numpy for damaged files, depending on the damage.
DAMAGE_ERRORS = (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile)


@dataclass
class Progress:
    """The progress of a fit.

    Attributes:
        state: state of the solver.
        costs: J of each step.
        validation_costs: J of the validation rows, if there are any.
        best: parameters with the lowest validation cost.
    """

    state: State
    costs: list[float]
    validation_costs: list[float]
    best: Floats


def path_for(models: Path, model: str) -> Path:
    """Return the path of a model's checkpoint, a hidden file next to its base path."""
    return models / f".{model}.checkpoint"


def save(path: Path, progress: Progress, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically replacing an older one.

    `identity` is the data and settings that a fit must have to resume from it.

    Raises:
        OSError: the directory cannot be written.
    """
    state = progress.state
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "identity": np.array(json.dumps(identity)),
        "theta": state.theta,
        "cost": np.array(state.cost),
        "criterion": np.array(state.criterion),
        "steps": np.array(state.steps),
        "finished": np.array(state.finished),
        "costs": np.array(progress.costs),
        "validation_costs": np.array(progress.validation_costs),
        "best": progress.best,
        **{MEMORY_PREFIX + name: values for name, values in state.memory.items()},
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, identity: Mapping[str, Any]) -> Progress:
    """Read a checkpoint for a fit of the same identity.

    Raises:
        ResumeError: there is no checkpoint, or it belongs to another fit.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        stored_identity = dict(json.loads(str(arrays["identity"])))
        progress = _decode_progress(arrays)
    except FileNotFoundError:
        raise ResumeError(f"there is no checkpoint {path} to resume from") from None
    except (*DAMAGE_ERRORS, OSError) as error:
        raise ResumeError(f"{path} is not a checkpoint: {error}") from error
    for name, value in json.loads(json.dumps(identity)).items():
        if stored_identity.get(name) != value:
            had, has = reprlib.repr(stored_identity.get(name)), reprlib.repr(value)
            raise ResumeError(f"the interrupted fit had {name} {had}, this one has {has}")
    return progress


def _decode_progress(arrays: Mapping[str, Any]) -> Progress:
    state = State(
        theta=arrays["theta"],
        cost=float(arrays["cost"]),
        criterion=float(arrays["criterion"]),
        steps=int(arrays["steps"]),
        memory={
            n.removeprefix(MEMORY_PREFIX): v
            for n, v in arrays.items()
            if n.startswith(MEMORY_PREFIX)
        },
        finished=bool(arrays["finished"]),
    )
    costs, validation_costs = (arrays[name].tolist() for name in ("costs", "validation_costs"))
    return Progress(state, costs, validation_costs, arrays["best"])
