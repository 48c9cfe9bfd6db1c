"""The directory of the prediction log: segments, Parquet files, and the plan of a compaction.

    DIRECTORY/*.ndjson, feedback/*.ndjson              segments
    DIRECTORY/model=NAME/date=YYYY-MM-DD/*.parquet     predictions
    DIRECTORY/feedback/date=YYYY-MM-DD/*.parquet       feedback
    DIRECTORY/datasets/TIME/rows/*.parquet             tables for retraining
    DIRECTORY/compaction.json                          the plan of an unfinished compaction

A compaction first writes a plan with its segments and the name of the new Parquet files. Readers
ignore these files until the plan is marked as written, and these segments afterwards. If a
compaction is killed at any point, each row is still read exactly once, and the next compaction
completes the plan. The plan holds each segment's inode and modification time because a new gateway
may reuse the name of a removed segment.
"""

from __future__ import annotations

import fcntl
import json
import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import polars as pl

from monitoring import segments
from monitoring.errors import MonitoringError
from monitoring.segments import FEEDBACK, FEEDBACK_SCHEMA, PREDICTIONS_SCHEMA

PLAN = "compaction.json"
DATASETS = "datasets"
LOCK = ".monitoring.lock"
KEY = ["id", "row"]
# Columns of a Parquet file; the model is in its path.
COLUMNS = tuple(name for name in PREDICTIONS_SCHEMA if name != "model")


@dataclass(frozen=True)
class Plan:
    """The plan of a compaction.

    Attributes:
        name: stem of the Parquet files.
        predictions, feedback: inode and modification time of each segment by name; an empty list
            in plans of earlier releases.
        written: whether all Parquet files are on disk.
    """

    name: str
    predictions: Mapping[str, list[int]]
    feedback: Mapping[str, list[int]]
    written: bool = False


class Store:
    """The directory of the prediction log."""

    def __init__(self, directory: Path) -> None:
        """Open the directory.

        Raises:
            MonitoringError: the directory does not exist.
        """
        if not directory.is_dir():
            raise MonitoringError(
                f"{directory} is not a directory; --log must name the directory in the gateway's "
                "CLIENT_LOG"
            )
        self.directory = directory
        self.feedback_directory = directory / FEEDBACK

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the lock: shared by readers, exclusive for jobs that change files."""
        descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def predictions(
        self,
        model: str | None = None,
        start: datetime | None = None,
        names: Sequence[str] = COLUMNS,
        keys: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Return predictions, including those of open segments.

        Args:
            model: only predictions of this model.
            start: only predictions from this time on.
            names: the columns to read.
            keys: only predictions with these `id` and `row`; each Parquet file is filtered as it
                is read, to save memory.
        """
        with self.locked(exclusive=False):
            plan = self.plan()
            folder = partition_name("model", model) if model is not None else "model=*"
            files = self._files(self.directory, f"{folder}/date=*/*.parquet", plan, start)
            paths = self._segments(self.directory, plan.predictions if plan.written else {})
            key_names = () if keys is None else KEY
            columns = list(dict.fromkeys([*names, *key_names, "time"]))
            frames = [
                _filter_keys(
                    pl.read_parquet(path, columns=columns, hive_partitioning=False).select(columns),
                    keys,
                )
                for path in files
            ]
            recent = segments.read_predictions(paths).frame
        if model is not None:
            recent = recent.filter(model=model)
        rows = pl.concat([*frames, _filter_keys(recent.select(columns), keys)])
        if start is not None:
            rows = rows.filter(pl.col("time") >= start)
        return rows.select(names)

    def feedback(self) -> pl.DataFrame:
        """Return all feedback."""
        with self.locked(exclusive=False):
            plan = self.plan()
            files = self._files(self.feedback_directory, "date=*/*.parquet", plan, None)
            paths = self._segments(self.feedback_directory, plan.feedback if plan.written else {})
            frames = [pl.read_parquet(path, hive_partitioning=False) for path in files]
            recent = segments.read_feedback(paths).frame
        return pl.concat([pl.DataFrame(schema=FEEDBACK_SCHEMA), *frames, recent])

    def parquet_files(self) -> list[Path]:
        """Return all Parquet files, of predictions and feedback."""
        return sorted(
            [
                *self.directory.glob("model=*/date=*/*.parquet"),
                *self.feedback_directory.glob("date=*/*.parquet"),
            ]
        )

    def plan(self) -> Plan:
        """Return the plan of an unfinished compaction; an empty plan if there is none.

        Raises:
            MonitoringError: the plan cannot be read.
        """
        path = self.directory / PLAN
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            for key in ("predictions", "feedback"):
                if isinstance(stored[key], list):
                    stored[key] = {name: [] for name in stored[key]}
            return Plan(**stored)
        except FileNotFoundError:
            return Plan("", {}, {})
        except (KeyError, TypeError, ValueError) as error:
            raise MonitoringError(f"{path}: not the plan of a compaction: {error}") from error

    def save_plan(self, plan: Plan) -> None:
        """Replace the plan atomically and sync it to disk."""
        write_atomically(self.directory / PLAN, json.dumps(asdict(plan)).encode())

    def remove_plan(self) -> None:
        """Remove the plan of a completed compaction."""
        (self.directory / PLAN).unlink(missing_ok=True)
        sync(self.directory)

    def _files(self, base: Path, pattern: str, plan: Plan, start: datetime | None) -> list[Path]:
        first = f"date={start.astimezone(timezone.utc):%Y-%m-%d}" if start else ""
        return [
            path
            for path in sorted(base.glob(pattern))
            if path.parent.name >= first and (plan.written or path.stem != plan.name)
        ]

    def _segments(self, folder: Path, compacted: Mapping[str, list[int]]) -> list[Path]:
        # List open segments first: one completed in between is found twice rather than missed.
        paths = {path.stem: path for path in segments.open_segments(folder)}
        paths |= {path.name: path for path in segments.sealed_segments(folder)}
        return sorted(path for path in paths.values() if not is_planned(path, compacted))


def identity(path: Path) -> list[int]:
    """Return a file's inode and modification time."""
    stat = path.stat()
    return [stat.st_ino, stat.st_mtime_ns]


def is_planned(path: Path, planned: Mapping[str, list[int]]) -> bool:
    """Return whether a plan includes a segment, and not an earlier one of the same name."""
    return path.name in planned and planned[path.name] in ([], identity(path))


@contextmanager
def exclusive_lock(path: Path, error: MonitoringError) -> Iterator[None]:
    """Hold a lock file; raise the error if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise error from None
    try:
        yield
    finally:
        os.close(descriptor)


def partition_name(name: str, value: str) -> str:
    """Return a Hive partition's directory name, which DuckDB and polars understand."""
    return f"{name}={urllib.parse.quote(value, safe=' ')}"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically and sync it to disk."""
    with _replacement(path) as file:
        file.write(content)


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Replace a Parquet file atomically and sync it to disk."""
    with _replacement(path) as file:
        frame.write_parquet(file, compression="zstd")


def append_line(path: Path, line: str) -> None:
    """Append a line, after a line break if a crash left the last line incomplete."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read() == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())


def sync(path: Path) -> None:
    """Sync a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file that replaces `path` once it is complete and synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    # Rows are personal data, so use the same mode as gateways do for segments.
    with os.fdopen(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    hidden.replace(path)
    sync(path.parent)


def _filter_keys(frame: pl.DataFrame, keys: pl.DataFrame | None) -> pl.DataFrame:
    return frame if keys is None else frame.join(keys, on=KEY, how="semi")
