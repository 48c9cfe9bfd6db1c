"""Rounds of `watch` in which something is missing, late, or broken."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import datetime, timedelta, timezone
from http.server import HTTPServer
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from monitoring import watching
from monitoring.counters import Bin
from monitoring.errors import MonitoringError
from monitoring.exporter import Exporter
from monitoring.retraining import HISTORY, Recipe
from monitoring.triggers import Policy
from monitoring.watching import Watcher, WatchSettings
from tests.support import prediction_log
from tests.support.prediction_log import exposition, feedback, prediction, write_segment

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)
AGE = {
    **{"name": "age", "kind": "numeric", "edges": [40], "shares": [0.5, 0.5]},
    **{"missing": 0, "other": 0, "contribution": 1},
}


class WatchRun:
    """A watcher of two versions of the model m, with its log and its reports."""

    def __init__(self, folder: Path, gateways: list[str], recipe: Recipe | None = None) -> None:
        self.log, self.reports = folder / "log", list[str]()
        for number in (1, 2):
            prediction_log.write_version(folder / "models", number, columns=[AGE])
        policy = Policy(every=timedelta(seconds=1), min_labels=1)
        settings = WatchSettings(
            folder / "models", "m", self.log, gateways, DAY, None, None, recipe, policy
        )
        self.exporter = Exporter("m")
        self._watcher = Watcher(settings, self.exporter, self.reports.append)

    def run_round(self, now: datetime = NOW) -> bool:
        return self._watcher.run_round(now)

    def metrics(self, name: str) -> list[str]:
        text = generate_latest(self.exporter.registry).decode()
        return [line for line in text.splitlines() if line.startswith(f"{name}{{")]


def set_counts(gateway: HTTPServer, young: int, old: int, canary: int = 0) -> str:
    """Set a gateway's row counts for version 1 and its canary; return the gateway's URL."""
    counts = Counter({Bin("m", 1, "age", "0"): young, Bin("m", 1, "age", "1"): old})
    counts[Bin("m", 2, "age", "0")] = canary
    gateway.text = exposition(counts)  # type: ignore[attr-defined]
    return f"http://127.0.0.1:{gateway.server_port}"


def test_drift_is_measured_for_the_version_with_the_most_rows(
    gateway: HTTPServer, tmp_path: Path
) -> None:
    watch = WatchRun(tmp_path, [set_counts(gateway, 1000, 50, canary=50)])
    assert watch.run_round()
    assert 'monitoring_drift_verdict{column="age",model="m",version="1"} 2.0' in watch.metrics(
        "monitoring_drift_verdict"
    )
    set_counts(gateway, 1000, 50, canary=2000)
    assert watch.run_round()
    assert [line.partition(" has drifted")[0] for line in watch.reports] == [
        "alarm: age of version 1",
        "alarm: age of version 2",
    ]


def test_alarm_ends_with_its_window(gateway: HTTPServer, tmp_path: Path) -> None:
    watch = WatchRun(tmp_path, [set_counts(gateway, 1000, 50)])
    watch.run_round()
    assert watch.metrics("monitoring_drift_verdict")
    watch.run_round(NOW + 2 * DAY)
    assert not watch.metrics("monitoring_drift_verdict")
    set_counts(gateway, 2000, 50)
    watch.run_round(NOW + 3 * DAY)
    assert watch.metrics("monitoring_drift_verdict")
    for path in tmp_path.rglob("reference.json"):
        path.write_text("{")
    assert not watch.run_round(NOW + 3 * DAY)
    assert not watch.metrics("monitoring_drift_verdict")


def test_gateway_that_does_not_resolve_does_not_hide_the_others(
    gateway: HTTPServer, tmp_path: Path
) -> None:
    watch = WatchRun(tmp_path, ["http://nobody.invalid", set_counts(gateway, 1000, 50)])
    assert not watch.run_round()
    assert "error: http://nobody.invalid: no address" in watch.reports[0]
    assert watch.metrics("monitoring_drift_verdict")


def test_port_in_use_is_reported(gateway: HTTPServer) -> None:
    port = gateway.server_port
    with pytest.raises(MonitoringError, match=f"cannot listen on 127.0.0.1:{port}: Address"):
        Exporter("m").serve("127.0.0.1", port)


def test_new_segments_are_left_for_shippers(tmp_path: Path) -> None:
    watch = WatchRun(tmp_path, [])
    new = write_segment(watch.log / "host-1-2.ndjson", [prediction(1)])
    old = write_segment(watch.log / "host-1-1.ndjson", [prediction(0)])
    os.utime(old, (NOW.timestamp() - 90, NOW.timestamp() - 90))
    watch.run_round()
    assert new.exists()
    assert not old.exists()


def test_unexpected_error_is_reported_and_the_round_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    watch = WatchRun(tmp_path, [])
    write_segment(watch.log / "a.ndjson", [prediction(0, time=NOW.isoformat())])
    assert watch.run_round()
    assert watch.metrics("monitoring_logged_rows")
    monkeypatch.setattr(watching, "measure_quality", fail)
    assert not watch.run_round()
    assert not watch.metrics("monitoring_logged_rows")
    assert watch.reports == ["error: ZeroDivisionError: division by zero"]
    assert "Traceback" in caplog.text
    last = watch.exporter.registry.get_sample_value("monitoring_last_round_seconds", {"model": "m"})
    assert last == NOW.timestamp()


def test_failed_retraining_is_counted_and_starts_the_cooldown(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path / "models", "m", str(tmp_path / "no.csv"), "left", DAY, 1)
    watch = WatchRun(tmp_path, [], recipe)
    failures = 'monitoring_retrainings_total{model="m",result="failed"}'
    # A series that starts at 1 shows no increase.
    assert f"{failures} 0.0" in watch.metrics("monitoring_retrainings_total")
    time = NOW.isoformat()
    write_segment(watch.log / "a.ndjson", [prediction(0, time=time, columns={"age": 1}, version=2)])
    labels = [feedback(0, "yes", time=time, received=time)]
    write_segment(watch.log / "feedback" / "a.ndjson", labels)
    assert not watch.run_round()
    assert "failed; nothing was published" in watch.reports[-1]
    assert "no.csv: no such file, or no table in this directory" in watch.reports[-1]
    assert f"{failures} 1.0" in watch.metrics("monitoring_retrainings_total")
    watch.run_round(NOW + timedelta(minutes=5))
    runs = [json.loads(line) for line in (watch.log / HISTORY).read_text().splitlines()]
    assert [run["result"] for run in runs] == ["failed"]
