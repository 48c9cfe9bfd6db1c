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
from monitoring.shipping_state import HOLD, unsent_segments
from monitoring.store import (
    DATASETS,
    Plan,
    Store,
    identity,
    is_planned,
    partition_name,
    write_atomically,
    write_parquet,
)

# Size of segments compacted together; their rows need about three times as much memory.
BATCH_BYTES = 64 << 20
SEALING_SECONDS = 120


@dataclass
class CompactionResult:
    """The result of a compaction.

    Attributes:
        segments: segments read and removed.
        predictions, feedback: rows written.
        skipped: unreadable lines, such as torn ones.
        waiting: segments left for `ship` to send.
    """

    segments: int = 0
    predictions: int = 0
    feedback: int = 0
    skipped: int = 0
    waiting: int = 0


@dataclass
class RemovalResult:
    """The result of a removal.

    Attributes:
        predictions, feedback: removed rows.
        training_rows: removed rows of datasets.
        files: rewritten files.
        damaged: unreadable datasets, which were removed.
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
) -> CompactionResult:
    """Compact all complete segments into Parquet files and remove the segments.

    Args:
        store: the directory of the log.
        now: the current time.
        report: called with the number of segments done and their total.
        keep_days: retention in days, which also limits how long segments wait for `ship`.
        min_age: seconds for which a segment must be unchanged.
    """
    result = CompactionResult()
    hold = HOLD if keep_days is None else min(HOLD, timedelta(days=keep_days))
    with store.locked(exclusive=True):
        unfinished = store.plan()
        if unfinished.name:
            _execute(store, unfinished, result)
        for folder in (store.directory, store.feedback_directory):
            segments.seal_abandoned(folder)
        # List them before `unsent_segments` does: one completed in between must not count as sent.
        complete = segments.sealed_segments(store.directory, min_age)
        waiting = unsent_segments(store.directory, now, hold)
        result.waiting = len(waiting)
        predictions = [p for p in complete if p not in waiting]
        feedback = segments.sealed_segments(store.feedback_directory, min_age)
        total = len(predictions) + len(feedback)
        while predictions or feedback:
            name = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            plan = Plan(
                name,
                {path.name: identity(path) for path in _pop_batch(predictions)},
                {path.name: identity(path) for path in _pop_batch(feedback)},
            )
            store.save_plan(plan)
            _execute(store, plan, result)
            report(total - len(predictions) - len(feedback), total)
    return result


def retain(
    store: Store, now: datetime, keep_days: int | None, keep_bytes: int | None
) -> list[Path]:
    """Remove the oldest Parquet files, datasets and counters; return the removed directories.

    Args:
        store: the directory of the log.
        now: the current time.
        keep_days: days to keep; None keeps all.
        keep_bytes: bytes of Parquet files to keep; None keeps all.
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
    store: Store, ids: Iterable[str], callers: Iterable[str], report: Callable[[int], None]
) -> RemovalResult:
    """Remove all rows of the given ids and callers from segments, Parquet files and datasets.

    Args:
        store: the directory of the log.
        ids: ids of predictions.
        callers: API key names, matched in predictions and feedback.
        report: called with the number of segments that gateways are still writing.

    Raises:
        MonitoringError: gateways did not complete their segments in time.
    """
    _wait_until_sealed(store, report)
    compact(store, datetime.now().astimezone(), lambda done, total: None)
    result, callers = RemovalResult(), list(callers)
    with store.locked(exclusive=True):
        prediction_ids = {*ids, *_ids_of(store.directory, "model=*/date=*/*.parquet", callers)}
        feedback_ids = set(_ids_of(store.feedback_directory, "date=*/*.parquet", callers))
        has_removed_id = pl.col("id").is_in(list(prediction_ids))
        keep = ~(has_removed_id | pl.col("caller").is_in(callers)).fill_null(False)
        for path in store.parquet_files():
            removed = _filter_parquet(path, keep, result)
            if path.is_relative_to(store.feedback_directory):
                result.feedback += removed
            else:
                result.predictions += removed
        # Datasets also contain labels, but neither the labels' callers nor the row numbers.
        all_ids = list(prediction_ids | feedback_ids)
        keep = ~pl.col("prediction id").is_in(all_ids).fill_null(False)
        for path in (store.directory / DATASETS).glob("*/rows/labelled.parquet"):
            try:
                result.training_rows += _filter_parquet(path, keep, result)
            except pl.exceptions.PolarsError:
                shutil.rmtree(path.parents[1])
                result.damaged += 1
        # Left by killed jobs; the lock excludes running ones.
        for pattern in (".*.parquet.tmp", ".*.ndjson.tmp"):
            for path in store.directory.rglob(pattern):
                path.unlink()
        # Segments that wait for `ship`, and those completed since the compaction.
        for path in segments.sealed_segments(store.directory):
            result.predictions += _filter_segment(path, prediction_ids, callers, result)
        for path in segments.sealed_segments(store.feedback_directory):
            result.feedback += _filter_segment(path, prediction_ids, callers, result)
    return result


def _pop_batch(paths: list[Path]) -> list[Path]:
    """Remove the next segments from a list and return them."""
    batch: list[Path] = []
    size = 0
    while paths and (not batch or size < BATCH_BYTES):
        batch.append(paths.pop(0))
        size += batch[-1].stat().st_size
    return batch


def _execute(store: Store, plan: Plan, result: CompactionResult) -> None:
    predictions = [store.directory / name for name in plan.predictions]
    feedback = [store.feedback_directory / name for name in plan.feedback]
    if not plan.written:
        _write_predictions(store, plan.name, predictions, result)
        _write_feedback(store, plan.name, feedback, result)
        store.save_plan(Plan(plan.name, plan.predictions, plan.feedback, written=True))
    for folder, planned in (
        (store.directory, plan.predictions),
        (store.feedback_directory, plan.feedback),
    ):
        for path in segments.sealed_segments(folder):
            if is_planned(path, planned):
                path.unlink()
    store.remove_plan()
    result.segments += len(predictions) + len(feedback)


def _write_predictions(
    store: Store, name: str, paths: list[Path], result: CompactionResult
) -> None:
    frame, skipped = segments.read_predictions(paths)
    dated = frame.with_columns(date=pl.col("time").dt.strftime("%Y-%m-%d"))
    for (model, date), rows in dated.partition_by(["model", "date"], as_dict=True).items():
        folder = (
            store.directory
            / partition_name("model", str(model))
            / partition_name("date", str(date))
        )
        write_parquet(folder / f"{name}.parquet", rows.drop("model", "date").sort("time"))
    result.predictions += len(frame)
    result.skipped += skipped


def _write_feedback(store: Store, name: str, paths: list[Path], result: CompactionResult) -> None:
    frame, skipped = segments.read_feedback(paths)
    dated = frame.with_columns(date=pl.col("received").dt.strftime("%Y-%m-%d"))
    for (date,), rows in dated.partition_by(["date"], as_dict=True).items():
        folder = store.feedback_directory / partition_name("date", str(date))
        write_parquet(folder / f"{name}.parquet", rows.drop("date"))
    result.feedback += len(frame)
    result.skipped += skipped


def _wait_until_sealed(store: Store, report: Callable[[int], None]) -> None:
    """Wait until gateways complete the segments now open; they may contain rows to remove."""
    folders = (store.directory, store.feedback_directory)
    pending = {path for folder in folders for path in segments.active_segments(folder)}
    deadline = time.monotonic() + SEALING_SECONDS
    while pending := {path for path in pending if path.exists()}:
        report(len(pending))
        if time.monotonic() > deadline:
            raise MonitoringError(
                f"segments still open after {SEALING_SECONDS} s: {len(pending)}, such as "
                f"{min(pending)}; nothing was removed. Gateways complete a segment each minute; "
                f"segments of stopped gateways count as complete after "
                f"{segments.ABANDONED_SECONDS // 60} minutes: run `forget` again then"
            )
        time.sleep(0.5)


def _filter_parquet(path: Path, keep: pl.Expr, result: RemovalResult) -> int:
    frame = pl.read_parquet(path, hive_partitioning=False)
    remaining = frame.filter(keep)
    removed = len(frame) - len(remaining)
    if removed:
        write_parquet(path, remaining)
        result.files += 1
    return removed


def _ids_of(folder: Path, pattern: str, callers: list[str]) -> Iterator[str]:
    """Yield the ids of callers' rows in the Parquet files and segments of a directory."""
    for path in folder.glob(pattern):
        rows = pl.read_parquet(path, columns=["id", "caller"], hive_partitioning=False)
        yield from rows.filter(pl.col("caller").is_in(callers))["id"]
    for path in segments.sealed_segments(folder):
        for line in segments.read_lines(path):
            with suppress(*segments.UNREADABLE):
                stored = orjson.loads(line)
                if stored.get("caller") in callers:
                    yield stored["id"]


def _filter_segment(path: Path, ids: set[str], callers: list[str], result: RemovalResult) -> int:
    remaining, removed, torn = [], 0, 0
    for line in segments.read_lines(path):
        try:
            stored = orjson.loads(line)
            is_removed = stored["id"] in ids or stored.get("caller") in callers
        except segments.UNREADABLE:
            torn += 1  # readers skip it, so drop it
            continue
        if is_removed:
            removed += 1
        else:
            remaining.append(line)
    if removed or torn:
        write_atomically(path, b"".join(remaining))
        result.files += 1
    return removed
