"""Retraining with the real training job, on a log in the gateways' format."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from datetime import datetime, timedelta, timezone
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import polars as pl
from click.testing import CliRunner, Result

from examples.drifting_traffic import customers
from monitoring.__main__ import main
from monitoring.counters import Bin
from monitoring.retraining import HISTORY, LOCK, Run, run_summary
from tests.support.prediction_log import exposition, feedback, prediction, write_segment
from training.publishing import manifest

ROWS = 3000
NOW = datetime.now(timezone.utc)


def write_log(
    folder: Path, rows: int, seed: int = 2, *, leave_out: str = "", **changes: Any
) -> Path:
    """Write a log of labelled predictions for generated customers."""
    predictions, labels = [], []
    for number, row in enumerate(customers(rows, seed, after_change=True)):
        label = row.pop("left")
        row.pop(leave_out, None)
        time = (NOW - timedelta(hours=2)).isoformat()
        predictions.append(prediction(number, time=time, columns=row, model="churn", **changes))
        labels.append(feedback(number, label, received=NOW.isoformat(), time=NOW.isoformat()))
    write_segment(folder / "host-1-1.ndjson", predictions)
    write_segment(folder / "feedback" / "host-1-1.ndjson", labels)
    return folder


def retrain(churn: Path, log: Path, *options: str) -> Result:
    command = ["retrain", f"--models={churn / 'models'}", "--model=churn", f"--log={log}"]
    command += [f"--data={churn / 'table.csv'}", "--reason=a test", *options]
    return CliRunner().invoke(main, command)


def test_gate_refusal_is_reported_and_nothing_is_published(churn: Path) -> None:
    versions = churn / "models" / "churn"
    # Each row represents five.
    log = write_log(churn / "log", 600, share=0.2)
    (log / HISTORY).write_text('{"time": "torn by a cra')
    result = retrain(churn, log, "--json", "--", "--floor=auc=0.9999", "--optimizer=newton")
    assert result.exit_code == 3, result.output
    run = json.loads(result.stdout)
    assert (run["result"], run["version"], run["labelled_rows"]) == ("refused", None, 600)
    assert run_summary(Run(**run)).startswith("refused; nothing was published (600 labelled rows")
    assert "auc" in run["message"]
    assert [path.name for path in versions.iterdir()] == ["1"]
    assert json.loads((log / HISTORY).read_text().splitlines()[1]) == run
    rows = pl.read_parquet(Path(run["dataset"]) / "rows" / "labelled.parquet")
    assert rows["row weight"].unique().to_list() == [5.0]


def test_errors_are_reported(trained_churn: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", 30)
    assert "30 labelled rows since" in retrain(trained_churn, log).output
    assert list((log / "datasets").iterdir()) == []
    (tmp_path / "table.xlsx").touch()
    for options, message in (
        (["--data=nothing.csv"], "nothing.csv: no such file"),
        ([f"--data={tmp_path / 'table.xlsx'}"], "cannot extend this format; expected .csv, .tsv"),
        (["--label=right"], "has no column 'right'; --label must name the label column"),
        (["--min-labels=1", "--", "--optimizer=magic"], "failed; nothing was published"),
    ):
        result = retrain(trained_churn, log, *options)
        assert result.exit_code == 1, result.output
        assert message in result.output
    incomplete = write_log(tmp_path / "incomplete", 30, leave_out="plan")
    assert "lack the columns 'plan'" in retrain(trained_churn, incomplete).output
    with (log / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in progress" in retrain(trained_churn, log, "--min-labels=1").output


def test_watch_retrains_on_drift_with_enough_labels_then_cools_down(
    churn: Path, gateway: HTTPServer
) -> None:
    # Half of the requests are logged.
    log = write_log(churn / "log", 400, share=0.5)
    for path in log.rglob("*.ndjson"):
        os.utime(path, (0, 0))  # newer segments are left for shippers
    counts: Counter[Bin] = Counter({Bin("churn", 1, "age", "9"): 900})
    counts[Bin("churn", 1, "age", "0")] = 100
    gateway.text = exposition(counts)  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{gateway.server_port}"
    command = ["watch", f"--models={churn / 'models'}", "--model=churn", f"--log={log}", "--once"]
    command += [f"--gateways={url}", "--cooldown=1h"]

    def watch(*options: str) -> str:
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 0, result.output
        return result.output

    data = f"--data={churn / 'table.csv'}"
    assert "retraining" not in watch(data, "--on-drift", "--min-labels=401")
    output = watch(data, "--on-drift", "--port=0")
    assert "alarm: age of version 1 has drifted: PSI" in output
    assert "retraining: drift: age (PSI" in output
    assert "published version 2 of churn (400 labelled rows" in output
    assert not list(log.glob("*.ndjson.open"))
    assert list(log.glob("model=churn/date=*/*.parquet"))  # compacted in the same round
    assert "retraining" not in watch(data, "--on-drift")

    version = manifest.read(churn / "models" / "churn" / "2")
    assert version.reason.startswith("drift: age (PSI")
    assert version.data.rows == ROWS + 400
    # The same rows are held out with and without weights, so the gate can compare versions.
    assert version.verdict.comparison is not None
    assert version.verdict.comparison.version == 1
    run = json.loads((log / HISTORY).read_text())
    provenance = json.loads((Path(run["dataset"]) / "provenance.json").read_text())
    assert provenance["original_rows"] == ROWS
    assert provenance["labelled_rows"] == 400
    assert provenance["rows_by_version"] == {"1": 400}
    assert provenance["weighted"] is True
    result = CliRunner().invoke(main, ["forget", f"--log={log}", "--id=id-5", "--json"])
    assert json.loads(result.stdout)["training_rows"] == 1

    unreachable = CliRunner().invoke(main, [*command, "--gateways=http://127.0.0.1:1"])
    assert "error: http://127.0.0.1:1/metrics cannot be read" in unreachable.output
    for options, message in (
        (["--on-drift"], "retraining requires --data"),
        ([data], "--data requires a trigger: --every, --floor or --on-drift"),
        ([data, "--floor=auc"], "expected METRIC=VALUE with one of log_loss"),
    ):
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 2
        assert message in result.output
