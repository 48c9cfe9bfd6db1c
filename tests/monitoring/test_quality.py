"""Quality metrics compared with scikit-learn, and label-free estimates with known truths."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from sklearn import metrics as sklearn

from monitoring import charts
from monitoring.__main__ import main
from monitoring.metrics import LabelledRows, expected_metrics
from monitoring.quality import ArmQuality, Quality, measure_quality
from monitoring.report import render
from monitoring.store import Store
from monitoring.versions import find_versions
from tests.support import prediction_log
from tests.support.prediction_log import NOON, feedback, prediction, write_segment
from training.evaluation.metrics import evaluate

START, END = NOON - timedelta(days=1), NOON + timedelta(days=30)


def sigmoid(logit: Any) -> Any:
    return 1 / (1 + np.exp(-logit))


def test_metrics_match_scikit_learn_and_training() -> None:
    random = np.random.default_rng(0)
    p = random.random(3000).round(2)  # with ties
    labels = (random.random(3000) < p**1.3).astype(np.float64)
    weights = random.choice([1.0, 4.0, 10.0], 3000)
    result = LabelledRows(labels, p, weights, 0.4).metrics()
    options: dict[str, Any] = {"sample_weight": weights}
    assert result["log_loss"] == pytest.approx(sklearn.log_loss(labels, p, **options))
    assert result["brier"] == pytest.approx(sklearn.brier_score_loss(labels, p, **options))
    assert result["auc"] == pytest.approx(sklearn.roc_auc_score(labels, p, **options))
    assert result["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, p >= 0.4, **options))
    assert result["calibration_error"] == pytest.approx(
        evaluate(labels, p, 0.4, weights)["calibration_error"], abs=1e-3
    )


def test_estimate_without_labels_holds_only_under_covariate_shift() -> None:
    random = np.random.default_rng(1)
    covered = {"accuracy": 0, "log_loss": 0}
    for _ in range(200):
        x = random.normal(1.0, 1.5, 2000)  # training had mean 0 and deviation 1
        p = sigmoid(2 * x - 0.5)
        labels = (random.random(2000) < p).astype(np.float64)
        weights = random.choice([1.0, 5.0], 2000)
        truth = LabelledRows(labels, p, weights, 0.5).metrics()
        expected = expected_metrics(p, weights, 0.5)
        for name in covered:
            covered[name] += expected[name].low <= truth[name] <= expected[name].high
    assert all(180 <= count <= 199 for count in covered.values()), covered
    # A change in how labels depend on inputs does not show in the estimate.
    reversed_labels = (random.random(2000) < sigmoid(-2 * x)).astype(np.float64)
    truth = LabelledRows(reversed_labels, p, weights, 0.5).metrics()
    assert truth["accuracy"] < expected["accuracy"].low - 0.3


def test_intervals_cover_the_true_accuracy() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for seed in range(40):
        p = random.beta(2, 2, 400)
        labels = (random.random(400) < p).astype(np.float64)
        estimate = LabelledRows(labels, p, np.ones(400), 0.5).estimates(seed)["accuracy"]
        covered += estimate.low <= 0.6875 <= estimate.high  # E max(p, 1 − p) of this distribution
    assert covered >= 34


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Predictions of two arms, mostly labelled; probabilities up to 0.5 have share 0.2."""
    models = tmp_path / "models"
    prediction_log.write_version(models, 1)
    prediction_log.write_version(models, 2, settings={"class_weight": "balanced"})
    random = np.random.default_rng(3)
    rows, labels = [], []
    for n in range(2000):
        p = float(random.random())
        arm = {"arm": "canary", "version": 2} if n % 4 == 0 else {"arm": "stable"}
        share = 1.0 if p > 0.5 or random.random() < 0.2 else None
        if share is None:
            continue
        share = 1.0 if p > 0.5 else 0.2
        rows.append(
            prediction(n, probability=p, label="yes" if p >= 0.5 else "no", share=share, **arm)
        )
        if n % 3:
            labels.append(feedback(n, "yes" if random.random() < p else "no"))
    write_segment(tmp_path / "log" / "a-1-1.ndjson", rows)
    late = (NOON + timedelta(days=10)).isoformat()
    first = labels[0]
    labels += [
        {**first, "label": "no", "received": late, "time": late},
        {**first, "label": "yes", "received": NOON.isoformat()},
        feedback(1_000_000, "yes"),
        feedback(rows[0]["row"], "maybe", id=rows[1]["id"]),
    ]
    write_segment(tmp_path / "log" / "feedback" / "a-1-1.ndjson", labels)
    return tmp_path / "log"


def measure(log: Path) -> Quality:
    models = log.parent / "models"
    return measure_quality(Store(log), "m", find_versions(models, "m"), START, END)


def measure_arms(log: Path) -> dict[tuple[int, str | None], ArmQuality]:
    return {(arm.version, arm.arm): arm for arm in measure(log).arms}


def test_arms_are_measured_with_rows_weighted_by_share(log: Path) -> None:
    by_arm = measure_arms(log)
    assert set(by_arm) == {(1, "stable"), (2, "canary")}
    stable = by_arm[1, "stable"]
    # Without weights, rows above the threshold would count five times as much.
    assert stable.metrics["accuracy"].low < 0.75 < stable.metrics["accuracy"].high
    assert stable.expected["accuracy"].value == pytest.approx(0.75, abs=0.02)
    assert stable.metrics["log_loss"].value == pytest.approx(0.5, abs=0.06)
    assert stable.coverage == pytest.approx(2 / 3, abs=0.03)
    assert stable.delay_seconds is not None
    assert stable.delay_seconds[0] == 3600
    assert stable.late == 1
    # Version 2 was trained with class weights, so its probabilities are not calibrated.
    assert by_arm[2, "canary"].expected == {}


def test_replaced_unknown_and_invalid_labels_are_counted(log: Path) -> None:
    result = measure(log)
    assert (result.replaced, result.unknown, result.invalid) == (2, 1, 1)


def test_last_received_label_wins(tmp_path: Path) -> None:
    models = tmp_path / "models"
    prediction_log.write_version(models)
    write_segment(tmp_path / "log" / "a.ndjson", [prediction(n, probability=0.9) for n in range(3)])
    later = (NOON + timedelta(days=1)).isoformat()
    labels = [feedback(0, "yes", received=later), feedback(0, "no"), feedback(1, "no")]
    write_segment(tmp_path / "log" / "feedback" / "a.ndjson", labels)
    arm = measure(tmp_path / "log").arms[0]
    assert arm.labelled == 2
    assert arm.metrics["accuracy"].value == 0.5


def test_report_states_missing_labels_and_predictions(tmp_path: Path) -> None:
    prediction_log.write_version(tmp_path / "models")
    write_segment(tmp_path / "log" / "a.ndjson", [prediction(n) for n in range(3)])
    result = measure(tmp_path / "log")
    assert (result.arms[0].labelled, result.arms[0].metrics) == (0, {})
    assert "without labels" in render(result)
    (tmp_path / "log" / "a.ndjson").unlink()
    assert "No predictions were logged" in render(measure(tmp_path / "log"))


def test_roc_curve_requires_labels_of_both_classes(tmp_path: Path) -> None:
    prediction_log.write_version(tmp_path / "models")
    write_segment(tmp_path / "log" / "a.ndjson", [prediction(n) for n in range(3)])
    write_segment(tmp_path / "log" / "feedback" / "a.ndjson", [feedback(0, "no")])
    assert "ROC curve" not in render(measure(tmp_path / "log"))
    write_segment(tmp_path / "log" / "feedback" / "b.ndjson", [feedback(1, "yes")])
    assert "ROC curve" in render(measure(tmp_path / "log"))


def test_same_day_of_two_years_has_two_bars(log: Path) -> None:
    days = (("2025-11-28", 3, 1), ("2026-11-28", 4, 2))
    figure = Figure()
    charts._draw_days(figure, replace(measure(log).arms[0], rows_by_day=days))
    bars = figure.axes[0].patches
    assert len({bar.get_x() for bar in bars}) == 2  # type: ignore[attr-defined]


def test_quality_command_writes_a_self_contained_report(log: Path) -> None:
    days = (datetime.now(timezone.utc) - NOON).days + 2
    report = log.parent / "quality.html"
    command = ["quality", f"--models={log.parent / 'models'}", "--model=m", f"--log={log}"]
    command += [f"--window={days}d", f"--html={report}"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "if only the inputs have shifted" in " ".join(result.output.split())
    page = report.read_text()
    assert page.count("<svg") == 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    result = CliRunner().invoke(main, [*command, "--json"])
    quality = json.loads(result.stdout)
    assert [arm["version"] for arm in quality["arms"]] == [1, 2]
