from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.support.tables import LABEL, fitted
from training.data import datasets as builtin
from training.data.reading import FrameFile, Source
from training.data.split import ROW_HASH
from training.data.table import Choice
from training.errors import RefusedError
from training.evaluation.metric_names import METRICS
from training.evaluation.metrics import evaluate
from training.export import warmup
from training.export.serving_module import TrainedModel, export
from training.pipeline import Candidate, Target, fit, gate_and_publish
from training.publishing import manifest
from training.publishing.export_check import check_export
from training.publishing.gate import Rules, Verdict, compare, judge
from training.publishing.saved_version import SavedVersion
from training.publishing.versions import versions
from training.settings import FitSettings

NAME = "breast_cancer"
NEWTON = FitSettings(optimizer="newton")
RULES = Rules()


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fitted(NEWTON)


@pytest.fixture(scope="module")
def worse() -> Candidate:
    """After two steps; much better than a constant, much worse than the candidate."""
    return fitted(FitSettings(iterations=2))


@pytest.fixture(scope="module")
def other_seed() -> Candidate:
    return fitted(replace(NEWTON, seed=3))


@pytest.fixture(scope="module")
def published(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with the candidate as version 1. Do not write to it."""
    models = tmp_path_factory.mktemp("gate")
    gate_and_publish(candidate, Target(models, NAME))
    return models


@pytest.fixture
def models(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "models"))


def judged(
    candidate: Candidate, published: Path | None, rules: Rules = RULES, *, force: bool = False
) -> Verdict:
    data = candidate.facts["data"]
    return judge(candidate.model, candidate.held_out, data, published, rules, force)


def with_metrics(candidate: Candidate, **metrics: float) -> Candidate:
    model = replace(candidate.model, metrics={**candidate.model.metrics, **metrics})
    return replace(candidate, model=model)


def version_of_candidate(candidate: Candidate, directory: Path) -> Path:
    """Write what the gate looks at of a version, without having it checked."""
    directory.mkdir(parents=True)
    export(candidate.model, directory)
    manifest.write(directory, candidate.facts)
    return directory


@pytest.mark.parametrize(
    ("metrics", "floors", "reason"),
    [
        ({"accuracy": 0.8}, {"accuracy": 0.9}, "accuracy 0.8000 is below its floor 0.9"),
        ({"recall": 0.5}, {"auc": 0.1, "recall": 0.6}, "recall 0.5000 is below its floor 0.6"),
        ({"log_loss": 0.3}, {"log_loss": 0.2}, "log_loss 0.3000 is above its floor 0.2"),
        ({"brier": 0.3}, {"brier": 0.2}, "brier 0.3000 is above its floor 0.2"),
        (
            {"calibration_error": 0.3},
            {"calibration_error": 0.2},
            "calibration_error 0.3000 is above its floor 0.2",
        ),
        ({"auc": math.nan}, {"auc": 0.5}, "auc nan is below its floor 0.5"),
        ({"brier": math.nan}, {"brier": 0.5}, "brier nan is above its floor 0.5"),
    ],
)
def test_a_metric_on_the_wrong_side_of_its_floor_is_refused(
    candidate: Candidate, metrics: dict[str, float], floors: dict[str, float], reason: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        judged(with_metrics(candidate, **metrics), None, Rules(floors))
    assert str(refused.value) == reason


def test_a_metric_at_its_floor_passes(candidate: Candidate) -> None:
    rules = Rules({name: candidate.model.metrics[name] for name in METRICS})
    assert judged(candidate, None, rules) == Verdict(True, "", False, None)


@pytest.mark.parametrize("log_loss", [0.7, math.nan, math.inf])
def test_what_predicts_no_better_than_a_constant_is_refused(
    candidate: Candidate, log_loss: float
) -> None:
    share = candidate.held_out.labels.mean()
    constant = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    with pytest.raises(RefusedError) as refused:
        judged(with_metrics(candidate, log_loss=log_loss), None)
    assert str(refused.value) == (
        f"log_loss {log_loss:.4f} is no better than {constant:.4f}, "
        f"that of always predicting {share:.4f}"
    )
    assert judged(with_metrics(candidate, log_loss=constant - 1e-6), None).passed
    with pytest.raises(RefusedError, match="no better than"):
        judged(with_metrics(candidate, log_loss=constant), None)


def test_a_constant_is_judged_by_the_rows_weights(candidate: Candidate) -> None:
    labels = candidate.held_out.labels
    weighted = replace(candidate.held_out, weights=np.where(labels == 1, 99.0, 1.0))
    with pytest.raises(RefusedError, match=r"no better than 0\.0\d+, that of always predicting 0"):
        judged(with_metrics(replace(candidate, held_out=weighted), log_loss=0.3), None)


def test_a_worse_candidate_is_refused_in_one_line_and_nothing_is_published(
    models: Path, worse: Candidate
) -> None:
    with pytest.raises(RefusedError) as refused:
        gate_and_publish(worse, Target(models, NAME))
    theirs = f"{evaluated(SavedVersion(models / NAME / '1'), worse)['log_loss']:.4f}"
    assert str(refused.value) == (
        f"log_loss {worse.model.metrics['log_loss']:.4f} is worse than the published version's "
        f"{theirs} on the same rows by more than 0.01"
    )
    assert versions(models / NAME) == [1]
    assert [p.name for p in models.iterdir()] == [NAME]


def evaluated(version: SavedVersion, candidate: Candidate) -> dict[str, float]:
    """The metrics of a version on the candidate's held-out rows."""
    rows = candidate.held_out
    outputs = version.run("serving_default", candidate.model.inputs(rows.frame))
    return evaluate(rows.labels, outputs["probability"].astype(np.float64), 0.5, rows.weights)


def test_how_much_worse_a_candidate_may_be_is_the_tolerance(
    published: Path, worse: Candidate
) -> None:
    forced = judged(worse, published / NAME / "1", force=True)
    assert forced.comparison is not None
    excess = forced.comparison.log_loss - forced.comparison.published_log_loss
    assert excess > 0.01
    assert judged(worse, published / NAME / "1", Rules(tolerance=excess + 1e-6)).passed
    with pytest.raises(RefusedError, match="by more than"):
        judged(worse, published / NAME / "1", Rules(tolerance=excess - 1e-6))


def test_a_forced_candidate_is_published_and_the_version_says_why_it_would_not_be(
    models: Path, worse: Candidate
) -> None:
    version, verdict = gate_and_publish(worse, Target(models, NAME, force=True))
    assert version == models / NAME / "2"
    assert verdict.forced
    assert not verdict.passed
    facts = manifest.read(version)
    assert facts is not None
    assert facts["gate"] == verdict.as_json()
    assert "is worse than the published version's" in facts["gate"]["reason"]
    assert facts["gate"]["comparison"]["version"] == 1


def test_what_passes_is_not_recorded_as_forced(published: Path, candidate: Candidate) -> None:
    verdict = judged(candidate, published / NAME / "1", force=True)
    assert (verdict.passed, verdict.reason, verdict.forced) == (True, "", False)


def test_an_equal_candidate_passes_even_without_tolerance(
    published: Path, candidate: Candidate
) -> None:
    verdict = judged(candidate, published / NAME / "1", Rules(tolerance=1e-6))
    assert verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.version == 1
    assert verdict.comparison.rows == len(candidate.held_out)
    log_loss = candidate.model.metrics["log_loss"]
    assert verdict.comparison.log_loss == pytest.approx(log_loss, abs=1e-9)
    assert verdict.comparison.published_log_loss == pytest.approx(log_loss, abs=1e-6)


def test_versions_are_compared_on_rows_that_neither_was_trained_on(
    published: Path, candidate: Candidate, other_seed: Candidate
) -> None:
    verdict = judged(other_seed, published / NAME / "1")
    assert verdict.comparison is not None
    seen = set(candidate.held_out.keys.tolist())
    neither = np.array([key in seen for key in other_seed.held_out.keys.tolist()])
    assert 0 < neither.sum() < len(neither) / 2
    assert verdict.comparison.rows == neither.sum()
    rows = other_seed.held_out.take(neither)
    inputs = candidate.model.inputs(rows.frame)
    theirs = SavedVersion(published / NAME / "1").run("serving_default", inputs)["probability"]
    for log_loss, probabilities in (
        (verdict.comparison.log_loss, rows.probabilities),
        (verdict.comparison.published_log_loss, theirs.astype(np.float64)),
    ):
        expected = evaluate(rows.labels, probabilities, 0.5, rows.weights)["log_loss"]
        assert log_loss == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that has learnt the rows it was trained on by heart."""
    candidate = fitted(replace(NEWTON, l2=1e-6))
    return version_of_candidate(candidate, tmp_path_factory.mktemp("by_heart") / "1")


def test_a_version_has_no_advantage_from_rows_it_was_trained_on(
    by_heart: Path, other_seed: Candidate
) -> None:
    # On all rows that the candidate held out, most of which the version knows, it would win.
    log_loss = evaluated(SavedVersion(by_heart), other_seed)["log_loss"]
    verdict = judged(other_seed, by_heart)
    assert verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.published_log_loss > 1.2 * log_loss
    assert verdict.comparison.published_log_loss > verdict.comparison.log_loss


def test_which_rows_a_version_was_trained_on_does_not_depend_on_the_order_of_columns(
    published: Path, candidate: Candidate
) -> None:
    frame = builtin.breast_cancer()
    turned = fitted(replace(NEWTON, seed=3), frame.select(reversed(frame.columns)))
    verdict = judged(turned, published / NAME / "1")
    assert verdict.comparison is not None
    theirs = set(candidate.held_out.keys.tolist())
    assert verdict.comparison.rows == sum(k in theirs for k in turned.held_out.keys.tolist())


def test_a_version_that_says_not_what_it_held_out_is_compared_on_all_rows(
    models: Path, other_seed: Candidate
) -> None:
    (models / NAME / "1" / manifest.MANIFEST).unlink()
    verdict = judged(other_seed, models / NAME / "1", Rules(tolerance=1.0))
    assert verdict.comparison is not None
    assert verdict.comparison.rows == len(other_seed.held_out)


def renamed_classes(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(LABEL).replace({"malignant": "ill", "benign": "well"}))


@pytest.mark.parametrize(
    "change",
    [
        renamed_classes,
        lambda frame: frame.drop("mean_radius"),
        lambda frame: frame.with_columns(extra=pl.Series(np.arange(len(frame)) % 7)),
        lambda frame: frame.rename({"mean_radius": "radius"}),
        # Text, where the version takes a number.
        lambda frame: frame.with_columns(
            mean_radius=pl.when(pl.col("mean_radius") > 14).then(pl.lit("a")).otherwise(pl.lit("b"))
        ),
    ],
    ids=["classes", "column missing", "column added", "column renamed", "column of another kind"],
)
def test_a_version_of_another_table_is_no_yardstick(
    published: Path, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    other = fitted(NEWTON, change(builtin.breast_cancer()))
    verdict = judged(other, published / NAME / "1", Rules(tolerance=0.0))
    assert verdict == Verdict(True, "", False, None)


def test_a_version_for_another_label_is_no_yardstick(published: Path) -> None:
    frame = builtin.breast_cancer().with_columns(
        large=pl.when(pl.col("mean_radius") > 14).then(pl.lit("yes")).otherwise(pl.lit("no"))
    )
    source = Source("rows", [FrameFile("rows", frame)])
    other = fit(source, Choice("large", leave_out=(LABEL,)), NEWTON)
    assert judged(other, published / NAME / "1").comparison is None


class Foreign(tf.Module):
    """A model that the training job has not made."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        return {"probability": tf.sigmoid(x)}


def test_a_version_that_the_job_has_not_made_is_no_yardstick(
    tmp_path: Path, candidate: Candidate
) -> None:
    other = Foreign()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures=other.serve)
    assert judged(candidate, tmp_path / "1").comparison is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("saved_model.pb", b"garbage"),
        ("saved_model.pb", b""),
        ("saved_model.pb", None),
        ("variables/variables.index", b"garbage"),
        ("variables/variables.data-00000-of-00001", b""),
        ("variables/variables.data-00000-of-00001", None),
    ],
)
def test_a_damaged_version_does_not_keep_a_good_one_from_being_published(
    models: Path, candidate: Candidate, file: str, content: bytes | None
) -> None:
    damaged = models / NAME / "1" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    data = candidate.facts["data"]
    assert compare(candidate.model, candidate.held_out, data, models / NAME / "1") is None


def test_an_export_that_answers_otherwise_than_training_is_refused(
    published: Path, candidate: Candidate
) -> None:
    expected = candidate.held_out.expected
    logit = np.log(expected.probabilities / (1 - expected.probabilities))
    shifted = 1 / (1 + np.exp(-logit - 1e-3))
    row = int((np.abs(shifted - expected.probabilities) - expected.tolerances).argmax())
    rows = replace(candidate.held_out, expected=replace(expected, probabilities=shifted))
    with pytest.raises(RefusedError) as refused:
        check_export(published / NAME / "1", rows, candidate.model)
    assert str(refused.value).startswith(
        f"the exported version fails its check: row {row} differs from training by 0.0002"
    )


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("variables/variables.index", b"garbage", ".+"),
        (str(warmup.WARMUP_FILE), b"garbage", ".+"),
    ],
)
def test_an_export_that_does_not_load_or_answer_is_refused(
    models: Path, candidate: Candidate, file: str, content: bytes, reason: str
) -> None:
    (models / NAME / "1" / file).write_bytes(content)
    with pytest.raises(RefusedError, match=f"^the exported version fails its check: {reason}$"):
        check_export(models / NAME / "1", candidate.held_out, candidate.model)


def test_a_version_says_how_it_came_about(published: Path, candidate: Candidate) -> None:
    version = published / NAME / "1"
    facts = json.loads((version / "manifest.json").read_text())
    model: TrainedModel = candidate.model
    assert facts["data"] == {
        "source": "breast_cancer",
        "rows": 569,
        "columns": [*(column.name for column in model.columns), LABEL],
        "hash": facts["data"]["hash"],
        "row_hash": ROW_HASH,
    }
    assert len(facts["data"]["hash"]) == 16
    assert facts["rows"] == {"read": 569, "train": 395, "validation": 0, "held_out": 174}
    assert facts["settings"] == asdict(NEWTON)
    fit = candidate.fit
    assert facts["fit"] == {
        "steps": fit.progress.state.steps,
        "stopped_by": "tolerance",
        "cost": fit.progress.costs[-1],
    }
    assert {name: version_of(name) for name in ("tensorflow", "numpy", "polars")}.items() <= (
        facts["libraries"].items()
    )
    assert facts["libraries"].keys() == {"python", "tensorflow", "numpy", "polars", "scikit-learn"}
    assert facts["trained_at"] == model.trained_at
    assert facts["threshold"] == 0.5
    assert facts["metrics"] == model.metrics
    assert facts["metrics"].keys() == facts["intervals"].keys() == set(METRICS)
    assert all(low <= high for low, high in facts["intervals"].values())
    assert facts["gate"] == {"passed": True, "reason": "", "forced": False, "comparison": None}
    files = {p.relative_to(version).as_posix(): p for p in version.rglob("*") if p.is_file()}
    del files["manifest.json"]
    assert {"saved_model.pb", "variables/variables.index", "report.html"} <= files.keys()
    assert str(warmup.WARMUP_FILE) in files
    assert facts["files"] == {n: sha256(p.read_bytes()).hexdigest() for n, p in files.items()}


def test_the_fingerprint_tells_tables_apart(candidate: Candidate) -> None:
    frame = builtin.breast_cancer()
    shuffled = fitted(NEWTON, frame.sample(fraction=1, shuffle=True, seed=0))
    assert shuffled.facts["data"]["hash"] == candidate.facts["data"]["hash"]
    changed = frame.with_columns(mean_radius=pl.Series([1.0, *frame["mean_radius"][1:]]))
    assert fitted(NEWTON, changed).facts["data"]["hash"] != candidate.facts["data"]["hash"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda v: (v / "saved_model.pb").unlink(), "saved_model.pb: missing"),
        (lambda v: (v / "extra").touch(), "extra: not in the manifest"),
        (lambda v: (v / "assets" / "manifest.json").touch(), "manifest.json: not in the manifest"),
        (lambda v: (v / "fingerprint.pb").write_bytes(b"x"), "fingerprint.pb: SHA-256 is"),
        (lambda v: append(v / "report.html"), "report.html: SHA-256 is"),
        (lambda v: (v / "variables").rename(v / "other"), "other/variables.data"),
        (lambda v: (v / "manifest.json").unlink(), "manifest.json: no manifest that can be read"),
        (lambda v: (v / "manifest.json").write_text("[]"), "no manifest that can be read"),
        (lambda v: (v / "manifest.json").write_text("{}"), "no manifest that can be read"),
        (lambda v: (v / "manifest.json").write_text('{"files": 1}'), "no manifest that can be"),
        (lambda v: (v / "manifest.json").write_bytes(b"\xff{"), "no manifest that can be read"),
    ],
)
def test_verify_finds_what_was_changed(
    models: Path, harm: Callable[[Path], object], message: str
) -> None:
    version = models / NAME / "1"
    assert manifest.verify(version) == len(list(manifest.file_hashes(version))) == 6
    harm(version)
    with pytest.raises(manifest.VerifyError, match=message):
        manifest.verify(version)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def test_warm_up_requests_cover_every_signature_that_predict_calls(
    published: Path, candidate: Candidate
) -> None:
    calls = list(warmup.read_calls(published / NAME / "1" / warmup.WARMUP_FILE))
    assert [call.signature_name for call in calls] == [
        "serving_default",
        "explain",
        "describe",
        "dense",
    ]
    assert set(calls[0].inputs) == {column.name for column in candidate.model.columns}
