"""Retraining in a subprocess, under a lock, with a history of runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from monitoring.dataset import ID, WEIGHT, Dataset, build
from monitoring.errors import MonitoringError
from monitoring.store import Store, append_line, exclusive_lock
from monitoring.versions import Version, find_versions

# Not .ndjson, which is the suffix of segments.
HISTORY = "retraining.jsonl"
LOCK = ".retraining.lock"
# Exit status of `fit` if the gate refuses the version.
REFUSED = 3

Result = Literal["published", "refused", "failed"]


@dataclass(frozen=True)
class Recipe:
    """The settings of a retraining run.

    Attributes:
        models: directory of all models.
        model: name of the model.
        data: the original table: a file, a directory or a glob.
        label: the label column; if empty, the manifest's.
        window: maximum age of the predictions used.
        min_labels: minimum number of labelled rows.
        options: additional options of `python -m training fit`.
    """

    models: Path
    model: str
    data: str
    label: str
    window: timedelta
    min_labels: int
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A retraining run.

    Attributes:
        time: start, ISO 8601.
        model: name of the model.
        reason: reason for the run.
        result: published, refused by the gate, or failed.
        version: number of the published version.
        message: the gate's message, or the error.
        dataset: directory of the dataset.
        labelled_rows: rows from the log in the dataset.
        seconds: duration.
    """

    time: str
    model: str
    reason: str
    result: Result
    version: int | None
    message: str
    dataset: str
    labelled_rows: int
    seconds: float


class Outcome(NamedTuple):
    """The outcome of a `Run`."""

    result: Result
    version: int | None
    message: str
    dataset: str = ""
    labelled_rows: int = 0


def retrain(store: Store, recipe: Recipe, reason: str, now: datetime) -> Run:
    """Build a dataset, train on it, and record the run, even if it fails.

    Raises:
        MonitoringError: another run is in progress, or the model has no version.
    """
    running = MonitoringError(
        f"another retraining run with the log {store.directory} is in progress"
    )
    with exclusive_lock(store.directory / LOCK, running):
        start = time.monotonic()
        newest = find_versions(recipe.models, recipe.model)[-1]
        try:
            outcome = _train(store, recipe, newest, reason, now)
        except (MonitoringError, OSError) as error:
            # Recorded so that --cooldown and --max-per-day also apply to failures.
            outcome = Outcome("failed", None, str(error))
        run = Run(
            time=now.isoformat(timespec="seconds"),
            model=recipe.model,
            reason=reason,
            **outcome._asdict(),
            seconds=round(time.monotonic() - start, 3),
        )
        append_line(store.directory / HISTORY, json.dumps(asdict(run), ensure_ascii=False))
    return run


def run_summary(run: Run) -> str:
    """Return the result of a run in one line."""
    rows = f"{run.labelled_rows:,} labelled rows, {run.seconds:.0f} s"
    if run.result == "published":
        notice = f"; {run.message}" if run.message else ""
        return f"published version {run.version} of {run.model} ({rows}){notice}"
    return f"{run.result}, nothing was published ({rows}): {run.message}"


def read_history(store: Store, model: str) -> list[Run]:
    """Return the retraining runs of a model, oldest first."""
    path = store.directory / HISTORY
    if not path.exists():
        return []
    runs = []
    for line in path.read_bytes().splitlines():  # str.splitlines splits at U+2028 too
        try:
            runs.append(Run(**json.loads(line)))
        except (TypeError, ValueError):  # torn by a crash
            continue
    return [run for run in runs if run.model == model]


def _train(store: Store, recipe: Recipe, newest: Version, reason: str, now: datetime) -> Outcome:
    """Build a dataset and train on it.

    Raises:
        MonitoringError: the dataset cannot be built or has too few labelled rows.
    """
    label = recipe.label or str(newest.manifest.get("data", {}).get("label", ""))
    if not label:
        raise MonitoringError(f"expected --label: {newest.directory} names no label column")
    start = now - recipe.window
    dataset = build(store, recipe.model, newest, recipe.data, label, start, now, reason)
    labelled = dataset.provenance.labelled_rows
    if labelled < recipe.min_labels:
        shutil.rmtree(dataset.directory)
        raise MonitoringError(
            f"{labelled:,} labelled rows since {start:%Y-%m-%d %H:%M}, fewer than --min-labels "
            f"{recipe.min_labels:,}; {dataset.provenance.incomplete:,} more are incomplete; "
            "nothing was trained"
        )
    process = subprocess.run(
        _command(recipe, dataset, newest, label, reason),
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(*_outcome(process), str(dataset.directory), labelled)


def _command(
    recipe: Recipe, dataset: Dataset, newest: Version, label: str, reason: str
) -> Sequence[str]:
    settings = newest.manifest.get("settings") or {}
    # --columns cannot name columns that contain commas.
    columns = [c for c in newest.reference.columns if c.name and "," not in c.name]
    column_options = [f"--columns={c.name}={c.kind}" for c in columns]
    # Hold out the same rows so that the gate can compare both versions.
    split_options = [
        f"--{option}={settings[name]}"
        for option, name in (("seed", "seed"), ("held-out", "held_out"))
        if name in settings
    ]
    return [
        *(sys.executable, "-m", "training", "fit", "--json", "--quiet"),
        f"--models={recipe.models}",
        f"--model={recipe.model}",
        f"--data={dataset.rows}",
        f"--label={label}",
        f"--positive={newest.reference.class_names[1]}",
        f"--leave-out={ID}",
        f"--reason={reason}",
        *column_options,
        *split_options,
        *([f"--weight={WEIGHT}"] if dataset.provenance.weighted else []),
        *recipe.options,
    ]


def _outcome(process: subprocess.CompletedProcess[str]) -> tuple[Result, int | None, str]:
    lines = process.stderr.strip().splitlines()
    last = lines[-1] if lines else ""
    # If the JSON is missing, as after `-- --help`, nothing was published.
    with suppress(KeyError, TypeError, ValueError):
        if process.returncode == 0:
            notices = [line for line in lines if line.startswith("Not compared")]
            return "published", int(json.loads(process.stdout)["version"]), " ".join(notices)
        if process.returncode == REFUSED:
            return "refused", None, str(json.loads(process.stdout)["refused"])
    return "failed", None, last or f"training ended with status {process.returncode} and no result"
