"""Writes segments and versions as gateways and the training job write them, for monitoring."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from monitoring.counters import Bin

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def prediction(number: int, **changes: Any) -> dict[str, Any]:
    moment = NOON + timedelta(seconds=number)
    return {
        "format": 1,
        "id": f"id-{number}",
        "row": 0,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "model": "m",
        "version": 1,
        "arm": None,
        "share": 1.0,
        "caller": None,
        "columns": {"x": number / 7, "city": None, "since": "2024-03-01"},
        "probability": 0.25,
        "label": "no",
        "shadow": None,
        "seconds": 0.004,
        **changes,
    }


def feedback(number: int, label: str, **changes: Any) -> dict[str, Any]:
    moment = (NOON + timedelta(hours=1, seconds=number)).isoformat()
    return {
        "format": 1,
        "id": f"id-{number}",
        "row": 0,
        "label": label,
        "time": moment,
        "received": moment,
        "caller": None,
        **changes,
    }


def write_segment(path: Path, rows: Iterable[Any], torn: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return path


def write_version(
    models: Path,
    number: int = 1,
    *,
    rows: int = 5000,
    columns: Iterable[Any] = (),
    class_names: tuple[str, str] = ("no", "yes"),
    **manifest: Any,
) -> Path:
    """Write `reference.json` and `manifest.json` of a version of the model m."""
    directory = models / "m" / str(number)
    directory.mkdir(parents=True)
    reference = {
        "format": 1,
        "rows": rows,
        "class_names": class_names,
        "positive_rate": 0.3,
        "probability": {"edges": [0.2, 0.5], "shares": [0.4, 0.4, 0.2]},
        "columns": list(columns),
    }
    (directory / "reference.json").write_text(json.dumps(reference))
    document = {"threshold": 0.5, "settings": {"class_weight": None}, **manifest}
    (directory / "manifest.json").write_text(json.dumps(document))
    return directory


def exposition(counts: Counter[Bin]) -> str:
    lines = ["# TYPE client_drift_rows_total counter"]
    for bin_, count in counts.items():
        labels = ",".join(f'{name}="{value}"' for name, value in bin_._asdict().items())
        lines.append(f"client_drift_rows_total{{{labels}}} {count}")
    return "\n".join(lines) + "\n"
