"""When retraining is due."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from monitoring.drift import ColumnDrift
from monitoring.metrics import Estimate
from monitoring.quality import ArmQuality, Quality
from monitoring.retraining import HISTORY, REFUSED, Run, read_history
from monitoring.retraining import _outcome as outcome_of
from monitoring.statistics import Shift
from monitoring.store import Store
from monitoring.triggers import Policy

NOW = datetime(2026, 3, 10, tzinfo=timezone.utc)
TRAINED_AT = NOW - timedelta(days=3)
HOUR = timedelta(hours=1)


def quality(labelled: int = 500, low: float = 0.6, high: float = 0.7, **arm: Any) -> Quality:
    metrics = {"auc": Estimate(0.65, low, high), "log_loss": Estimate(0.65, low, high)}
    fields: dict[str, Any] = {
        "version": 1,
        "arm": None,
        "rows": 1000,
        "labelled": labelled,
        "coverage": 0.5,
    }
    fields |= {"delay_seconds": (1.0, 2.0), "late": 0, "metrics": metrics if labelled else {}}
    fields |= {"expected": {}, "rows_by_day": (), "labelled_rows": None, **arm}
    return Quality("m", NOW, NOW, (ArmQuality(**fields),), 0, 0, 0)


def drift(verdict: Any) -> list[ColumnDrift]:
    shift = Shift(0.5, 0.01, 0.2, None, 50.0, 20.0, verdict)
    return [ColumnDrift("x", 1000, shift, 1.0, 0.0, 0.0, 0.0, 0.0)]


def run(ago: timedelta) -> Run:
    time = (NOW - ago).isoformat()
    return Run(time, "m", "", "refused", None, "", "", 500, 1.0)


def due(policy: Policy, measured: Quality | None = None, **overrides: Any) -> str | None:
    inputs: dict[str, Any] = {"runs": [], "trained_at": TRAINED_AT, "drift": [], **overrides}
    return policy.due(NOW, quality=measured if measured is not None else quality(), **inputs)


def test_floor_is_missed_only_if_the_whole_interval_misses_it() -> None:
    reason = due(Policy(floors={"auc": 0.75}))
    assert reason is not None
    assert reason.startswith("quality: auc 0.6500 (0.6000 to 0.7000) of version 1 is below 0.75")
    assert due(Policy(floors={"auc": 0.69})) is None
    assert "above 0.5" in str(due(Policy(floors={"log_loss": 0.5})))
    assert due(Policy(floors={"log_loss": 0.65})) is None


def test_drift_triggers_only_with_enough_labels() -> None:
    policy = Policy(on_drift=True, min_labels=200)
    assert str(due(policy, drift=drift("alarm"))).startswith("drift: x (PSI 0.50), with 500")
    assert due(policy, drift=drift("warn")) is None
    assert due(policy, quality(199), drift=drift("alarm")) is None
    assert due(policy, quality(0), drift=drift("alarm")) is None
    assert due(Policy(), drift=drift("alarm")) is None


def test_schedule_counts_from_the_last_run_or_version() -> None:
    assert due(Policy(every=timedelta(days=3))) == "schedule: every 3 d"
    assert due(Policy(every=timedelta(hours=36))) == "schedule: every 36 h"
    assert due(Policy(every=timedelta(days=4))) is None
    assert due(Policy(every=timedelta(days=2)), runs=[run(24 * HOUR)]) is None
    assert due(Policy(every=timedelta(days=2)), quality(3)) is None


@pytest.mark.parametrize(
    ("hours_ago", "expected"), [((5,), False), ((7,), True), ((8, 7), False), ((30, 7), True)]
)
def test_cooldown_and_daily_limit_delay_retraining(
    hours_ago: tuple[int, ...], expected: bool
) -> None:
    policy = Policy(floors={"auc": 0.75}, cooldown=6 * HOUR, max_per_day=2)
    runs = [run(hours * HOUR) for hours in hours_ago]
    assert (due(policy, runs=runs) is not None) == expected


def test_history_keeps_any_text_and_skips_torn_lines(tmp_path: Path) -> None:
    entry = replace(run(HOUR), message="one line\u2028or two")
    line = json.dumps(asdict(entry), ensure_ascii=False)
    (tmp_path / HISTORY).write_bytes('{"torn in ö'.encode()[:-1] + f"\n{line}\n".encode())
    assert read_history(Store(tmp_path), "m") == [entry]


def test_canary_quality_does_not_trigger_retraining() -> None:
    assert due(Policy(floors={"auc": 0.75}), quality(arm="canary")) is None
    assert due(Policy(floors={"auc": 0.75}), quality(arm="stable")) is not None


@pytest.mark.parametrize("status", [0, REFUSED])
def test_fit_without_a_result_is_recorded_as_failed(status: int) -> None:
    process = subprocess.CompletedProcess[str]([], status, "Usage: fit [OPTIONS]", "")
    message = f"training ended with status {status} and no result"
    assert outcome_of(process) == ("failed", None, message)
