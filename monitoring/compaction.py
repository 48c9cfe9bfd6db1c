"""Compaction of segments to Parquet, retention, and removal of rows on request."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import orjson
import polars as pl

from monitoring import segments
from monitoring.counters import History
from monitoring.errors import MonitoringError
from monitoring.shipped import HOLD, unsent
from monitoring.store import (
    DATASETS,
    Plan,
    Store,
    identity,
    is_planned,
    partition,
    write_parquet,
    write_whole,
)

# Segments that are compacted together; rows take about three times as much memory.
BATCH_BYTES = 64 << 20
SEALING_SECONDS = 120


@dataclass
class Compacted:
    """The result of a compaction.

    Attributes:
        segments: segments read and removed.
        predictions, feedback: rows written.
        skipped: lines that could not be read, such as torn ones.
        waiting: segments left for `ship` to send.
    """

    segments: int = 0
    predictions: int = 0
    feedback: int = 0
    skipped: int = 0
    waiting: int = 0


@dataclass
class Forgotten:
    """The result of a removal.

    Attributes:
        predictions, feedback: removed rows.
        training_rows: removed rows of datasets.
        files: rewritten files.
        damaged: datasets that could not be read and were removed.
    """

    predictions: int = 0
    feedback: int = 0
    training_rows: int = 0
    files: int = 0
    damaged: int = 0


def compact(
    store: Store,
    now: datetime,
    report: Callable[[int, int], None],
    keep_days: int | None = None,
    min_age: float = 0,
) -> Compacted:
    """Compact all complete segments into Parquet files, and remove the segments.

    Args:
        store: the directory of the log.
        now: the time, for the files' names.
        report: called with the number of segments done and their total.
        keep_days: days that files are kept, and the longest that segments wait for `ship`.
        min_age: seconds for which a segment must not have changed.
    """
    done = Compacted()
    hold = HOLD if keep_days is None else min(HOLD, timedelta(days=keep_days))
    with store.locked(exclusive=True):
        unfinished = store.plan()
        if unfinished.name:
            _carry_out(store, unfinished, done)
        for folder in (store.directory, store.feedback_directory):
            segments.seal_abandoned(folder)
        # Listed before `unsent` lists them: one completed in between must not count as sent.
        settled = segments.sealed(store.directory, min_age)
        waiting = unsent(store.directory, now, hold)
        done.waiting = len(waiting)
        predictions = [p for p in settled if p not in waiting]
        feedback = segments.sealed(store.feedback_directory, min_age)
        total = len(predictions) + len(feedback)
        while predictions or feedback:
            name = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            plan = Plan(
                name,
                {path.name: identity(path) for path in _batch(predictions)},
                {path.name: identity(path) for path in _batch(feedback)},
            )
            store.put_plan(plan)
            _carry_out(store, plan, done)
            report(total - len(predictions) - len(feedback), total)
    return done


def retain(
    store: Store, now: datetime, keep_days: int | None, keep_bytes: int | None
) -> list[Path]:
    """Remove the oldest Parquet files, datasets and counters, and return their directories.

    Args:
        store: the directory of the log.
        now: the time.
        keep_days: how many days to keep; None keeps all.
        keep_bytes: how many bytes to keep; None keeps all.
    """
    removed = []
    with store.locked(exclusive=True):
        oldest = ""
        if keep_days is not None:
            oldest = f"date={now - timedelta(days=keep_days):%Y-%m-%d}"
        files = sorted(store.parquet_files(), key=lambda path: path.parent.name)
        size = sum(path.stat().st_size for path in files)
        for folder in dict.fromkeys(path.parent for path in files):
            if folder.name >= oldest and (keep_bytes is None or size <= keep_bytes):
                break
            size -= sum(path.stat().st_size for path in folder.glob("*.parquet"))
            shutil.rmtree(folder)
            removed.append(folder)
        if keep_days is not None:
            first = f"{now - timedelta(days=keep_days):%Y%m%d}"
            History(store.directory).prune(now - timedelta(days=keep_days))
            for folder in sorted((store.directory / DATASETS).glob("*")):
                if folder.name < first:
                    shutil.rmtree(folder)
                    removed.append(folder)
    return removed


def forget(
    store: Store, ids: Iterable[str], callers: Iterable[str], waiting: Callable[[int], None]
) -> Forgotten:
    """Remove all rows of some ids and callers, from segments, Parquet files and datasets.

    Args:
        store: the directory of the log.
        ids: of predictions.
        callers: names of API keys, of predictions and of feedback.
        waiting: called with the number of segments that gateways still write to.

    Raises:
        MonitoringError: gateways do not complete their segments.
    """
    _wait_until_sealed(store, waiting)
    compact(store, datetime.now().astimezone(), lambda done, total: None)
    done, callers = Forgotten(), list(callers)
    with store.locked(exclusive=True):
        unwanted = {*ids, *_ids_of(store.directory, "model=*/date=*/*.parquet", callers)}
        labelled = set(_ids_of(store.feedback_directory, "date=*/*.parquet", callers))
        wanted = ~(pl.col("id").is_in(list(unwanted)) | pl.col("caller").is_in(callers)).fill_null(
            False
        )
        for path in store.parquet_files():
            removed = _filter(path, wanted, done)
            if path.is_relative_to(store.feedback_directory):
                done.feedback += removed
            else:
                done.predictions += removed
        # Datasets hold the labels, too, but neither their callers nor the rows' numbers.
        by_id = ~pl.col("prediction id").is_in(list(unwanted | labelled)).fill_null(False)
        for path in (store.directory / DATASETS).glob("*/rows/labelled.parquet"):
            try:
                done.training_rows += _filter(path, by_id, done)
            except pl.exceptions.PolarsError:
                shutil.rmtree(path.parents[1])
                done.damaged += 1
        # Killed jobs have left them; the lock excludes jobs that run.
        for pattern in (".*.parquet.tmp", ".*.ndjson.tmp"):
            for path in store.directory.rglob(pattern):
                path.unlink()
        # Segments that wait for `ship`, and those completed since the compaction.
        for path in segments.sealed(store.directory):
            done.predictions += _filter_segment(path, unwanted, callers, done)
        for path in segments.sealed(store.feedback_directory):
            done.feedback += _filter_segment(path, unwanted, callers, done)
    return done


def _batch(paths: list[Path]) -> list[Path]:
    """Take the next segments out of a list."""
    taken: list[Path] = []
    size = 0
    while paths and (not taken or size < BATCH_BYTES):
        taken.append(paths.pop(0))
        size += taken[-1].stat().st_size
    return taken


def _carry_out(store: Store, plan: Plan, done: Compacted) -> None:
    predictions = [store.directory / name for name in plan.predictions]
    feedback = [store.feedback_directory / name for name in plan.feedback]
    if not plan.written:
        _write_predictions(store, plan.name, predictions, done)
        _write_feedback(store, plan.name, feedback, done)
        store.put_plan(Plan(plan.name, plan.predictions, plan.feedback, written=True))
    for folder, planned in (
        (store.directory, plan.predictions),
        (store.feedback_directory, plan.feedback),
    ):
        for path in segments.sealed(folder):
            if is_planned(path, planned):
                path.unlink()
    store.drop_plan()
    done.segments += len(predictions) + len(feedback)


def _write_predictions(store: Store, name: str, paths: list[Path], done: Compacted) -> None:
    frame, skipped = segments.read_predictions(paths)
    dated = frame.with_columns(date=pl.col("time").dt.strftime("%Y-%m-%d"))
    for (model, date), rows in dated.partition_by(["model", "date"], as_dict=True).items():
        folder = store.directory / partition("model", str(model)) / partition("date", str(date))
        write_parquet(folder / f"{name}.parquet", rows.drop("model", "date").sort("time"))
    done.predictions += len(frame)
    done.skipped += skipped


def _write_feedback(store: Store, name: str, paths: list[Path], done: Compacted) -> None:
    frame, skipped = segments.read_feedback(paths)
    dated = frame.with_columns(date=pl.col("received").dt.strftime("%Y-%m-%d"))
    for (date,), rows in dated.partition_by(["date"], as_dict=True).items():
        folder = store.feedback_directory / partition("date", str(date))
        write_parquet(folder / f"{name}.parquet", rows.drop("date"))
    done.feedback += len(frame)
    done.skipped += skipped


def _wait_until_sealed(store: Store, waiting: Callable[[int], None]) -> None:
    """Wait for the segments that are open now; they may hold rows to remove."""
    folders = (store.directory, store.feedback_directory)
    pending = {path for folder in folders for path in segments.being_written(folder)}
    deadline = time.monotonic() + SEALING_SECONDS
    while pending := {path for path in pending if path.exists()}:
        waiting(len(pending))
        if time.monotonic() > deadline:
            raise MonitoringError(
                f"after {SEALING_SECONDS} s, {len(pending)} segments are still open, such as "
                f"{min(pending)}; nothing was removed. A gateway completes a segment each minute, "
                f"and one whose gateway has ended counts as complete after "
                f"{segments.ABANDONED_SECONDS // 60} minutes: run `forget` again then"
            )
        time.sleep(0.5)


def _filter(path: Path, wanted: pl.Expr, done: Forgotten) -> int:
    frame = pl.read_parquet(path, hive_partitioning=False)
    kept = frame.filter(wanted)
    removed = len(frame) - len(kept)
    if removed:
        write_parquet(path, kept)
        done.files += 1
    return removed


def _ids_of(folder: Path, pattern: str, callers: list[str]) -> Iterator[str]:
    """Yield the ids of some callers' rows in a directory's Parquet files and segments."""
    for path in folder.glob(pattern):
        found = pl.read_parquet(path, columns=["id", "caller"], hive_partitioning=False)
        yield from found.filter(pl.col("caller").is_in(callers))["id"]
    for path in segments.sealed(folder):
        for line in segments.lines(path):
            with suppress(*segments.UNREADABLE):
                stored = orjson.loads(line)
                if stored.get("caller") in callers:
                    yield stored["id"]


def _filter_segment(path: Path, ids: set[str], callers: list[str], done: Forgotten) -> int:
    kept, removed, torn = [], 0, 0
    for line in segments.lines(path):
        try:
            stored = orjson.loads(line)
            unwanted = stored["id"] in ids or stored.get("caller") in callers
        except segments.UNREADABLE:
            torn += 1  # nothing reads it
            continue
        if unwanted:
            removed += 1
        else:
            kept.append(line)
    if removed or torn:
        write_whole(path, b"".join(kept))
        done.files += 1
    return removed
