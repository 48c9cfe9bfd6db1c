"""Segments of the prediction log and of feedback: NDJSON files that gateways write.

docs/client.md describes both formats. A gateway renames a complete segment from `.ndjson.open` to
`.ndjson`. Segments that a killed gateway left open are renamed here after `ABANDONED_SECONDS`
without a write; a torn last line is skipped.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import polars as pl

ABANDONED_SECONDS = 600
# Exceptions raised by parsing torn or damaged lines.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)
FEEDBACK = "feedback"
TIME = pl.Datetime("us", "UTC")
# `columns` and `outputs` are JSON text so that all files have the same schema for any model.
PREDICTIONS_SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "row": pl.Int64,
    "time": TIME,
    "model": pl.String,
    "version": pl.Int64,
    "arm": pl.String,
    "share": pl.Float64,
    "caller": pl.String,
    "columns": pl.String,
    "probability": pl.Float64,
    "label": pl.String,
    "outputs": pl.String,
    "shadow_version": pl.Int64,
    "shadow_probability": pl.Float64,
    "shadow_label": pl.String,
    "seconds": pl.Float64,
}
FEEDBACK_SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "row": pl.Int64,
    "label": pl.String,
    "time": TIME,
    "received": TIME,
    "caller": pl.String,
}


class Rows(NamedTuple):
    """Parsed rows and the number of unreadable lines."""

    frame: pl.DataFrame
    skipped: int


def sealed_segments(folder: Path, min_age: float = 0) -> list[Path]:
    """Return the complete segments of a directory, ordered by name.

    Args:
        folder: the directory.
        min_age: seconds for which a segment must be unchanged.
    """
    paths = sorted(folder.glob("*.ndjson"))
    now = time.time()
    return [p for p in paths if now - p.stat().st_mtime > min_age] if min_age else paths


def seal_abandoned(folder: Path) -> None:
    """Rename segments that killed gateways left open."""
    for path in open_segments(folder):
        if _is_abandoned(path):
            # A starting gateway may rename it first.
            with suppress(FileNotFoundError):
                path.rename(path.with_suffix(""))


def open_segments(folder: Path) -> list[Path]:
    """Return the segments that are not yet complete."""
    return sorted(folder.glob("*.ndjson.open"))


def active_segments(folder: Path) -> list[Path]:
    """Return the segments that a gateway may still write to."""
    return [path for path in open_segments(folder) if not _is_abandoned(path)]


def read_predictions(paths: Iterable[Path]) -> Rows:
    """Read segments of predictions."""
    return _read(paths, PREDICTIONS_SCHEMA, parse_prediction)


def read_feedback(paths: Iterable[Path]) -> Rows:
    """Read segments of feedback."""
    return _read(paths, FEEDBACK_SCHEMA, _parse_feedback)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a segment, even if it has just been renamed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        file = path.with_name(path.name.removesuffix(".open")).open("rb")
    with file:
        yield from file


def parse_prediction(stored: Any) -> tuple[Any, ...]:
    """Return the cells of a logged row, in the order of `PREDICTIONS_SCHEMA`.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is not a row of the log.
    """
    shadow = stored.get("shadow") or {}
    columns, share = stored["columns"], float(stored["share"])
    if not isinstance(columns, dict) or not 0 < share <= 1:
        raise ValueError("not a row of the log")
    probability, label, outputs = _parse_outputs(stored)
    shadow_probability, shadow_label, _ = _parse_outputs(shadow)
    return (
        str(stored["id"]),
        _integer(stored["row"]),
        _time(stored["time"]),
        str(stored["model"]),
        _integer(stored["version"]),
        _text(stored.get("arm")),
        share,
        _text(stored.get("caller")),
        orjson.dumps(columns).decode(),
        probability,
        label,
        None if outputs is None else orjson.dumps(outputs).decode(),
        None if not shadow else _integer(shadow["version"]),
        shadow_probability,
        shadow_label,
        _number(stored.get("seconds")),
    )


def _read(paths: Iterable[Path], schema: dict[str, Any], parse: Any) -> Rows:
    rows, skipped = [], 0
    for path in paths:
        for line in read_lines(path):
            try:
                rows.append(parse(orjson.loads(line)))
            except UNREADABLE:
                skipped += 1
    return Rows(pl.DataFrame(rows, schema, orient="row"), skipped)


def _parse_feedback(stored: Any) -> tuple[Any, ...]:
    return (
        str(stored["id"]),
        _integer(stored["row"]),
        str(stored["label"]),
        _time(stored["time"]),
        _time(stored["received"]),
        _text(stored.get("caller")),
    )


def _parse_outputs(stored: Any) -> tuple[float | None, str | None, Any]:
    """Return probability, label and other outputs.

    A model may use the names probability and label for outputs of any type.
    """
    probability, label = (_scalar(stored.get(name)) for name in ("probability", "label"))
    if not isinstance(probability, int | float | None) or isinstance(label, list | dict):
        return None, None, {"probability": probability, "label": label}
    if label is not None and not isinstance(label, str):
        label = orjson.dumps(label).decode()
    return _number(probability), label, stored.get("outputs")


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _integer(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("not a 64-bit integer")
    return number


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _time(text: str) -> datetime:
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def _is_abandoned(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime <= ABANDONED_SECONDS:
            return False
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # renamed in the meantime
        return False
    try:
        # A suspended gateway still holds its lock.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        pass
    finally:
        os.close(file)
    return True
