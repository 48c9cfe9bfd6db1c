from __future__ import annotations

import json
import math
import re
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

from tests.support.tables import LABEL, fit_table
from training.data import datasets as builtin
from training.data.choose import Choice
from training.data.reading import FrameFile, Source
from training.data.split import ROW_HASH
from training.errors import RefusedError
from training.evaluation.metric_names import METRICS
from training.evaluation.metrics import evaluate
from training.export import warmup
from training.export.serving_module import TrainedModel, export
from training.pipeline import Candidate, Target, fit, gate_and_publish
from training.publishing import manifest
from training.publishing.export_check import check_export
from training.publishing.file_hashes import ManifestError, file_hashes, verify
from training.publishing.gate import Rules, judge
from training.publishing.manifest import Verdict
from training.publishing.saved_version import SavedVersion
from training.publishing.versions import versions
from training.settings import FitSettings

NAME = "breast_cancer"
NEWTON = FitSettings(optimizer="newton")
RULES = Rules()


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fit_table(NEWTON)


@pytest.fixture(scope="module")
def worse() -> Candidate:
    """A fit of two steps: much better than a constant, much worse than the candidate."""
    return fit_table(FitSettings(optimizer="gradient-descent", iterations=2))


@pytest.fixture(scope="module")
def other_seed() -> Candidate:
    return fit_table(replace(NEWTON, seed=3))


@pytest.fixture(scope="module")
def published(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with the candidate as version 1. Do not write to it."""
    models = tmp_path_factory.mktemp("gate")
    gate_and_publish(candidate, Target(models, NAME))
    return models


@pytest.fixture
def models(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "models"))


def judge_candidate(
    candidate: Candidate, published: Path | None, rules: Rules = RULES, *, force: bool = False
) -> Verdict:
    return judge(candidate, published, rules, force)


def with_metrics(candidate: Candidate, **metrics: float) -> Candidate:
    model = replace(candidate.model, metrics={**candidate.model.metrics, **metrics})
    return replace(candidate, model=model)


def write_version(candidate: Candidate, directory: Path) -> Path:
    """Write the files of a version that the gate reads, without checking the export."""
    directory.mkdir(parents=True)
    export(candidate.model, directory)
    manifest.write(directory, candidate.manifest)
    return directory


@pytest.mark.parametrize(
    ("metrics", "floors", "reason"),
    [
        ({"accuracy": 0.8}, {"accuracy": 0.9}, "accuracy 0.8000 is below its floor 0.9"),
        ({"recall": 0.5}, {"auc": 0.1, "recall": 0.6}, "recall 0.5000 is below its floor 0.6"),
        ({"log_loss": 0.3}, {"log_loss": 0.2}, "log_loss 0.3000 is above its limit 0.2"),
        ({"brier": 0.3}, {"brier": 0.2}, "brier 0.3000 is above its limit 0.2"),
        (
            {"calibration_error": 0.3},
            {"calibration_error": 0.2},
            "calibration_error 0.3000 is above its limit 0.2",
        ),
        ({"auc": math.nan}, {"auc": 0.5}, "auc nan is below its floor 0.5"),
        ({"brier": math.nan}, {"brier": 0.5}, "brier nan is above its limit 0.5"),
    ],
)
def test_metric_beyond_its_floor_is_refused(
    candidate: Candidate, metrics: dict[str, float], floors: dict[str, float], reason: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        judge_candidate(with_metrics(candidate, **metrics), None, Rules(floors))
    assert str(refused.value) == reason


def test_metric_at_its_floor_passes(candidate: Candidate) -> None:
    rules = Rules({name: candidate.model.metrics[name] for name in METRICS})
    verdict = judge_candidate(candidate, None, rules)
    assert verdict.passed
    assert verdict.notices == []


@pytest.mark.parametrize("log_loss", [0.7, math.nan, math.inf])
def test_model_no_better_than_constant_is_refused(candidate: Candidate, log_loss: float) -> None:
    p = candidate.held_out.labels.mean()
    baseline = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    with pytest.raises(RefusedError) as refused:
        judge_candidate(with_metrics(candidate, log_loss=log_loss), None)
    assert str(refused.value) == (
        f"log_loss {log_loss:.4f} is no better than {baseline:.4f}, "
        f"that of always predicting {p:.4f}"
    )
    assert judge_candidate(with_metrics(candidate, log_loss=baseline - 1e-6), None).passed
    with pytest.raises(RefusedError, match="no better than"):
        judge_candidate(with_metrics(candidate, log_loss=baseline), None)


def test_constant_baseline_is_weighted(candidate: Candidate) -> None:
    labels = candidate.held_out.labels
    weighted = replace(candidate.held_out, weights=np.where(labels == 1, 99.0, 1.0))
    with pytest.raises(RefusedError, match=r"no better than 0\.0\d+, that of always predicting 0"):
        judge_candidate(with_metrics(replace(candidate, held_out=weighted), log_loss=0.3), None)


def test_worse_candidate_is_refused_and_not_published(models: Path, worse: Candidate) -> None:
    with pytest.raises(RefusedError) as refused:
        gate_and_publish(worse, Target(models, NAME))
    published_loss = f"{evaluate_version(SavedVersion(models / NAME / '1'), worse)['log_loss']:.4f}"
    assert str(refused.value) == (
        f"log_loss {worse.model.metrics['log_loss']:.4f} is worse than the published version's "
        f"{published_loss} on the same rows by more than 0.01"
    )
    assert versions(models / NAME) == [1]
    assert [p.name for p in models.iterdir()] == [NAME]


def evaluate_version(version: SavedVersion, candidate: Candidate) -> dict[str, float]:
    """Return a version's metrics on the candidate's held-out rows."""
    rows = candidate.held_out
    outputs = version.run("serving_default", candidate.model.inputs(rows.frame))
    return evaluate(rows.labels, outputs["probability"].astype(np.float64), 0.5, rows.weights)


def test_tolerance_limits_how_much_worse_candidate_may_be(
    published: Path, worse: Candidate
) -> None:
    forced = judge_candidate(worse, published / NAME / "1", force=True)
    assert forced.comparison is not None
    excess = forced.comparison.metrics["log_loss"] - forced.comparison.published_metrics["log_loss"]
    assert excess > 0.01
    assert judge_candidate(worse, published / NAME / "1", Rules(tolerance=excess + 1e-6)).passed
    with pytest.raises(RefusedError, match="by more than"):
        judge_candidate(worse, published / NAME / "1", Rules(tolerance=excess - 1e-6))


def test_forced_candidate_is_published_with_reason_for_refusal(
    models: Path, worse: Candidate
) -> None:
    version, verdict = gate_and_publish(worse, Target(models, NAME, force=True))
    assert version == models / NAME / "2"
    assert verdict.forced
    assert not verdict.passed
    recorded = manifest.read(version).verdict
    assert recorded == verdict
    assert "is worse than the published version's" in recorded.reason
    assert recorded.comparison is not None
    assert recorded.comparison.version == 1


def test_passing_candidate_is_not_recorded_as_forced(published: Path, candidate: Candidate) -> None:
    verdict = judge_candidate(candidate, published / NAME / "1", force=True)
    assert (verdict.passed, verdict.reason, verdict.forced) == (True, "", False)


def test_equal_candidate_passes_with_tiny_tolerance(published: Path, candidate: Candidate) -> None:
    verdict = judge_candidate(candidate, published / NAME / "1", Rules(tolerance=1e-6))
    assert verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.version == 1
    assert verdict.comparison.rows == len(candidate.held_out)
    log_loss = candidate.model.metrics["log_loss"]
    assert verdict.comparison.metrics["log_loss"] == pytest.approx(log_loss, abs=1e-9)
    assert verdict.comparison.published_metrics["log_loss"] == pytest.approx(log_loss, abs=1e-6)


def test_versions_are_compared_on_rows_new_to_both(
    published: Path, candidate: Candidate, other_seed: Candidate
) -> None:
    verdict = judge_candidate(other_seed, published / NAME / "1")
    assert verdict.comparison is not None
    published_keys = set(candidate.held_out.keys.tolist())
    is_new = np.array([key in published_keys for key in other_seed.held_out.keys.tolist()])
    assert 0 < is_new.sum() < len(is_new) / 2
    assert verdict.comparison.rows == is_new.sum()
    rows = other_seed.held_out.take(is_new)
    inputs = candidate.model.inputs(rows.frame)
    published_probabilities = SavedVersion(published / NAME / "1").run("serving_default", inputs)[
        "probability"
    ]
    for log_loss, probabilities in (
        (verdict.comparison.metrics["log_loss"], rows.probabilities),
        (
            verdict.comparison.published_metrics["log_loss"],
            published_probabilities.astype(np.float64),
        ),
    ):
        expected = evaluate(rows.labels, probabilities, 0.5, rows.weights)["log_loss"]
        assert log_loss == pytest.approx(expected, abs=1e-6)

    held_out = other_seed.held_out
    weights = np.where(is_new & (held_out.labels == 1), 0.0, held_out.weights)
    weighted = replace(other_seed, held_out=replace(held_out, weights=weights))
    # The new rows of one class have no weight.
    assert judge_candidate(weighted, published / NAME / "1").comparison is None


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that is overfitted to its training rows."""
    candidate = fit_table(replace(NEWTON, l2=1e-6))
    return write_version(candidate, tmp_path_factory.mktemp("overfitted") / "1")


def test_published_version_gains_nothing_from_its_training_rows(
    overfitted: Path, other_seed: Candidate
) -> None:
    # On all held-out rows, most of which the version was trained on, the version would win.
    log_loss = evaluate_version(SavedVersion(overfitted), other_seed)["log_loss"]
    verdict = judge_candidate(other_seed, overfitted)
    assert verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.published_metrics["log_loss"] > 1.2 * log_loss
    assert verdict.comparison.published_metrics["log_loss"] > verdict.comparison.metrics["log_loss"]


def test_rows_new_to_both_do_not_depend_on_column_order(
    published: Path, candidate: Candidate
) -> None:
    frame = builtin.breast_cancer()
    reordered = fit_table(replace(NEWTON, seed=3), frame.select(reversed(frame.columns)))
    change = "the order of the columns changes, on which the signature 'dense' depends"
    with pytest.raises(RefusedError, match=f"callers of version 1 would break: {change}"):
        judge_candidate(reordered, published / NAME / "1")
    verdict = judge_candidate(reordered, published / NAME / "1", Rules(allow_schema_change=True))
    assert verdict.schema_changes == (change,)
    assert verdict.comparison is not None
    published_keys = set(candidate.held_out.keys.tolist())
    assert verdict.comparison.rows == sum(
        k in published_keys for k in reordered.held_out.keys.tolist()
    )


def test_fraction_of_changed_labels_is_recorded(published: Path, worse: Candidate) -> None:
    verdict = judge_candidate(worse, published / NAME / "1", force=True)
    assert verdict.comparison is not None
    rows = worse.held_out
    inputs = worse.model.inputs(rows.frame)
    published_labels = SavedVersion(published / NAME / "1").run("serving_default", inputs)["label"]
    labels = np.where(rows.probabilities >= 0.5, b"benign", b"malignant")
    flips = np.mean(labels != published_labels)
    assert 0 < flips < 0.5
    assert verdict.comparison.label_flips == pytest.approx(flips)
    equal = judge_candidate(fit_table(NEWTON), published / NAME / "1").comparison
    assert equal is not None
    assert equal.label_flips == 0


def edit_manifest(version: Path, **changes: Any) -> None:
    path = version / "manifest.json"
    stored = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        stored[section] = {**stored[section], name: value} if name else value
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda v: (v / "manifest.json").unlink(),
            r"the rows it was trained on are unknown: .*manifest\.json: missing",
        ),
        (
            lambda v: (v / "manifest.json").write_text("{"),
            r"the rows it was trained on are unknown: .*manifest\.json: cannot be read",
        ),
        (
            lambda v: edit_manifest(v, data__row_hash="other/7"),
            "the rows it was trained on are unknown: they were chosen by the row hash other/7",
        ),
        (
            lambda v: edit_manifest(v, data__columns=["a", "b"]),
            "the rows it was trained on are unknown: they were chosen by a hash of the columns a,",
        ),
        (
            lambda v: edit_manifest(v, settings__held_out=1e-9),
            "it was trained on all but 0 of the 174 held-out rows; --seed 0 holds out the rows",
        ),
        (
            lambda v: edit_manifest(
                v, data__split_by="time", data__split_column="when", data__held_out_hash="0"
            ),
            "the rows it was trained on are unknown: it was split by time 'when' and held out",
        ),
    ],
    ids=["no manifest", "broken manifest", "row hash", "columns", "trained on all", "split"],
)
def test_unfair_comparison_is_skipped_with_reason(
    models: Path, worse: Candidate, damage: Callable[[Path], object], reason: str
) -> None:
    damage(models / NAME / "1")
    verdict = judge_candidate(worse, models / NAME / "1")
    assert verdict.passed
    assert verdict.comparison is None
    assert verdict.rule == "judged by log-loss against a constant"
    (notice,) = verdict.notices
    assert re.match(f"Not compared with the published version: version 1: {reason}", notice)


def test_versions_that_hold_out_same_rows_are_compared_regardless_of_split(
    models: Path, worse: Candidate
) -> None:
    edit_manifest(models / NAME / "1", data__split_by="test data")
    comparison = judge_candidate(worse, models / NAME / "1", Rules(tolerance=9)).comparison
    assert comparison is not None
    assert comparison.rows == 174


def test_manifest_of_earlier_release_is_read(models: Path, candidate: Candidate) -> None:
    path = models / NAME / "1" / "manifest.json"
    stored = json.loads(path.read_text())
    del stored["data"]["label"], stored["data"]["row_hash"], stored["warnings"]
    stored["fit"] = {"steps": 2000, "stopped_by": "iterations", "cost": 0.1}
    comparison = {"version": 4, "rows": 9, "log_loss": 0.5, "published_log_loss": 0.6}
    stored["gate"] = {"passed": True, "reason": "", "forced": False, "comparison": comparison}
    path.write_text(json.dumps(stored))
    earlier = manifest.read(models / NAME / "1")
    assert earlier.settings == NEWTON
    assert not earlier.fit.converged
    assert earlier.verdict.comparison == manifest.Comparison(
        4, 9, {"log_loss": 0.5}, {"log_loss": 0.6}, None
    )
    assert judge_candidate(candidate, models / NAME / "1").schema_changes == ()
    assert json.loads(json.dumps(earlier.as_json()))["rows"] == stored["rows"]


def rename_classes(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(LABEL).replace({"malignant": "ill", "benign": "well"}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename_classes, "the classes change from 'malignant' and 'benign' to 'ill' and 'well'"),
        (
            lambda frame: frame.with_columns(
                pl.col(LABEL).replace({"malignant": "benign", "benign": "zzz"})
            ),
            "the classes change from 'malignant' and 'benign' to",
        ),
        (lambda frame: frame.drop("mean_radius"), "column 'mean_radius' is dropped"),
        (
            lambda frame: frame.with_columns(extra=pl.Series(np.arange(len(frame)) % 7 / 2)),
            "column 'extra' (numeric) is new",
        ),
        (
            lambda frame: frame.rename({"mean_radius": "radius"}),
            "column 'mean_radius' is dropped; column 'radius' (numeric) is new",
        ),
        (
            lambda frame: frame.with_columns(
                mean_radius=pl.when(pl.col("mean_radius") > 14)
                .then(pl.lit("a"))
                .otherwise(pl.lit("b"))
            ),
            "column 'mean_radius' changes from numeric (float32) to categorical (string)",
        ),
    ],
    ids=["classes", "class swapped", "dropped", "added", "renamed", "kind"],
)
def test_schema_change_is_refused_unless_allowed(
    published: Path, change: Callable[[pl.DataFrame], pl.DataFrame], reason: str
) -> None:
    changed = fit_table(NEWTON, change(builtin.breast_cancer()))
    version = published / NAME / "1"
    for force in (False, True):
        with pytest.raises(RefusedError) as refused:
            judge_candidate(changed, version, force=force)
        assert f"callers of version 1 would break: {reason}" in str(refused.value)
        assert "--allow-schema-change publishes the candidate" in str(refused.value)
    verdict = judge_candidate(changed, version, Rules(tolerance=0.0, allow_schema_change=True))
    assert verdict.passed
    assert reason in "; ".join(verdict.schema_changes)
    assert verdict.comparison is None
    assert verdict.not_compared == "version 1: the columns or classes are not the same"
    assert len(verdict.notices) == len(verdict.schema_changes) + 1


def test_changes_that_break_requests_or_alter_dates_are_refused(tmp_path: Path) -> None:
    frame = builtin.breast_cancer().with_columns(
        mean_radius=pl.when(pl.col("mean_radius") > 12).then("mean_radius"),
        day=pl.date_range(pl.date(2024, 1, 1), pl.date(2025, 7, 22), eager=True).head(569),
    )
    day = pl.col("day").dt
    version = write_version(
        fit_table(NEWTON, frame.with_columns(day.strftime("%d/%m/%Y"))), tmp_path / "1"
    )
    changed = fit_table(
        NEWTON, frame.with_columns(day.strftime("%m/%d/%Y"), pl.col("mean_radius").fill_null(12))
    )
    changes = (
        "column 'mean_radius' may no longer be left out",
        "column 'day': dates change from day/month/year to month/day/year",
    )
    with pytest.raises(RefusedError, match=f"would break: {'; '.join(changes)}"):
        judge_candidate(changed, version)
    verdict = judge_candidate(changed, version, Rules(tolerance=1.0, allow_schema_change=True))
    assert verdict.schema_changes == changes
    assert verdict.comparison is not None


def test_swapped_classes_are_refused(published: Path) -> None:
    swapped = fit(builtin.source(NAME), Choice(LABEL, positive="malignant"), NEWTON)
    with pytest.raises(RefusedError, match="class 1 changes from 'benign' to 'malignant'"):
        judge_candidate(swapped, published / NAME / "1")


def test_changed_label_is_refused(published: Path) -> None:
    frame = builtin.breast_cancer().rename({LABEL: "finding"})
    source = Source("rows", [FrameFile("rows", frame)])
    changed = fit(source, Choice("finding"), NEWTON)
    with pytest.raises(RefusedError, match=f"the label changes from '{LABEL}' to 'finding'"):
        judge_candidate(changed, published / NAME / "1")


def imbalanced_frame(rows: int = 3000) -> pl.DataFrame:
    """Return a table with one row in 25 in class 1."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 2))
    logit = x @ [1.0, -0.5] - 3.7
    labels = np.where(logit + random.logistic(size=rows) > 0, "yes", "no")
    return pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], LABEL: labels})


@pytest.mark.parametrize("class_weight", ["balanced", {"yes": 20.0}])
def test_reweighted_model_is_judged_by_auc(tmp_path: Path, class_weight: Any) -> None:
    plain = fit_table(NEWTON, imbalanced_frame())
    reweighted = fit_table(replace(NEWTON, class_weight=class_weight), imbalanced_frame())
    p = plain.held_out.labels.mean()
    constant_loss = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert reweighted.model.metrics["log_loss"] > constant_loss  # by log-loss it could never pass
    for candidate, baseline in ((reweighted, plain), (plain, reweighted)):
        folder = tmp_path / str(id(candidate))
        version = write_version(baseline, folder / "1")
        verdict = judge_candidate(candidate, version)
        assert verdict.passed
        assert re.search("AUC against (chance and )?the published version", verdict.rule)
        comparison = verdict.comparison
        assert comparison is not None
        assert comparison.metrics["auc"] == pytest.approx(
            comparison.published_metrics["auc"], abs=0.01
        )
    assert judge_candidate(plain, None).rule == "judged by log-loss against a constant"
    assert judge_candidate(reweighted, None).rule == (
        "judged by AUC against chance, because class weights shift probabilities"
    )


def test_reweighted_model_must_beat_chance_and_match_published_version(tmp_path: Path) -> None:
    settings = replace(NEWTON, class_weight="balanced")
    random_model = with_metrics(fit_table(settings, imbalanced_frame()), auc=0.5)
    with pytest.raises(RefusedError, match=r"^auc 0\.5000 is no better than chance, 0\.5$"):
        judge_candidate(random_model, None)
    baseline = fit_table(settings, imbalanced_frame())
    version = write_version(baseline, tmp_path / "1")
    reversed_rows = replace(baseline.held_out, probabilities=baseline.held_out.probabilities[::-1])
    weaker = replace(baseline, held_out=reversed_rows)
    with pytest.raises(RefusedError, match=r"^auc 0\.\d+ is worse than the published version's 0"):
        judge_candidate(weaker, version)


class Foreign(tf.Module):
    """A model exported by another program."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        return {"probability": tf.sigmoid(x)}


def test_version_of_another_program_is_not_compared(tmp_path: Path, candidate: Candidate) -> None:
    foreign = Foreign()
    tf.saved_model.save(foreign, str(tmp_path / "1"), signatures=foreign.serve)
    verdict = judge_candidate(candidate, tmp_path / "1")
    assert verdict.passed
    assert verdict.not_compared.startswith("version 1: it does not describe itself: ")


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
def test_damaged_version_does_not_block_candidate(
    models: Path, candidate: Candidate, file: str, content: bytes | None
) -> None:
    damaged = models / NAME / "1" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    verdict = judge_candidate(candidate, models / NAME / "1")
    assert verdict.passed
    assert verdict.comparison is None
    assert verdict.not_compared.startswith("version 1: it cannot be loaded: ")
    assert len(verdict.not_compared.splitlines()) == 1


def test_export_that_disagrees_with_training_is_refused(
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
        ("variables/variables.index", b"garbage", "file is too short to be an sstable"),
        (str(warmup.WARMUP_FILE), b"garbage", f"{warmup.WARMUP_FILE} has no requests"),
    ],
)
def test_damaged_export_is_refused(
    models: Path, candidate: Candidate, file: str, content: bytes, reason: str
) -> None:
    (models / NAME / "1" / file).write_bytes(content)
    with pytest.raises(RefusedError, match=f"^the exported version fails its check: {reason}$"):
        check_export(models / NAME / "1", candidate.held_out, candidate.model)


def test_manifest_records_provenance(published: Path, candidate: Candidate) -> None:
    version = published / NAME / "1"
    facts = json.loads((version / "manifest.json").read_text())
    model: TrainedModel = candidate.model
    assert facts["data"] == {
        "source": "breast_cancer",
        "rows": 569,
        "columns": [*(column.name for column in model.columns), LABEL],
        "hash": facts["data"]["hash"],
        "row_hash": ROW_HASH,
        "label": LABEL,
        "held_out_hash": facts["data"]["held_out_hash"],
        "split_by": "hash",
        "split_column": "",
        "split_start": None,
    }
    assert len(facts["data"]["hash"]) == len(facts["data"]["held_out_hash"]) == 16
    assert facts["rows"] == {"read": 569, "train": 395, "validation": 0, "held_out": 174}
    assert facts["settings"] == asdict(NEWTON)
    fit = candidate.fit
    assert facts["fit"] == {
        "steps": fit.progress.state.steps,
        "stopped_by": "tolerance",
        "converged": True,
        "cost": pytest.approx(fit.progress.costs[-1], rel=1e-12),
        "gradient": pytest.approx(fit.progress.state.criterion, rel=1e-3),
        "learning_rate": None,
    }
    assert facts["libraries"]["tensorflow"] == tf.__version__
    assert {name: version_of(name) for name in ("numpy", "polars")}.items() <= (
        facts["libraries"].items()
    )
    assert facts["libraries"].keys() == {"python", "tensorflow", "numpy", "polars", "scikit-learn"}
    assert facts["trained_at"] == model.trained_at
    assert facts["threshold"] == 0.5
    assert facts["metrics"] == model.metrics
    assert facts["metrics"].keys() == facts["intervals"].keys() == set(METRICS)
    assert all(low <= high for low, high in facts["intervals"].values())
    assert facts["gate"] == {
        "passed": True,
        "reason": "",
        "forced": False,
        "rule": "judged by log-loss against a constant",
        "comparison": None,
        "not_compared": "",
        "schema_changes": [],
    }
    files = {p.relative_to(version).as_posix(): p for p in version.rglob("*") if p.is_file()}
    del files["manifest.json"]
    assert {"saved_model.pb", "variables/variables.index", "report.html"} <= files.keys()
    assert str(warmup.WARMUP_FILE) in files
    assert facts["files"] == {n: sha256(p.read_bytes()).hexdigest() for n, p in files.items()}


def test_data_hash_identifies_rows_in_any_order(candidate: Candidate) -> None:
    frame = builtin.breast_cancer()
    shuffled = fit_table(NEWTON, frame.sample(fraction=1, shuffle=True, seed=0))
    assert shuffled.manifest.data.hash == candidate.manifest.data.hash
    changed = frame.with_columns(mean_radius=pl.Series([1.0, *frame["mean_radius"][1:]]))
    assert fit_table(NEWTON, changed).manifest.data.hash != candidate.manifest.data.hash


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: (v / "saved_model.pb").unlink(), "saved_model.pb: missing"),
        (lambda v: (v / "extra").touch(), "extra: not in the manifest"),
        (lambda v: (v / "assets" / "manifest.json").touch(), "manifest.json: not in the manifest"),
        (lambda v: (v / "fingerprint.pb").write_bytes(b"x"), "fingerprint.pb: SHA-256 is"),
        (lambda v: append_byte(v / "report.html"), "report.html: SHA-256 is"),
        (lambda v: (v / "variables").rename(v / "other"), "other/variables.data"),
        (lambda v: (v / "manifest.json").unlink(), "manifest.json: missing"),
        (lambda v: (v / "manifest.json").write_text("[]"), "expected a JSON object, got list"),
        (
            lambda v: (v / "manifest.json").write_text("{}"),
            "manifest.json: expected an object 'files'",
        ),
        (lambda v: (v / "manifest.json").write_text('{"files": 1}'), "hash of each file, got int"),
        (lambda v: (v / "manifest.json").write_bytes(b"\xff{"), "manifest.json: cannot be read"),
    ],
)
def test_verify_detects_changed_files(
    models: Path, damage: Callable[[Path], object], message: str
) -> None:
    version = models / NAME / "1"
    assert verify(version) == len(list(file_hashes(version))) == 7
    damage(version)
    with pytest.raises(ManifestError, match=message):
        verify(version)


def append_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def test_warm_up_requests_cover_all_predict_signatures(
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


def test_a_missing_signature_or_input_is_named(tmp_path: Path) -> None:
    other = Foreign()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures=other.serve)
    version = SavedVersion(tmp_path / "1")
    x = np.zeros(1, np.float32)
    for _ in range(2):  # the first call does not add the signature
        with pytest.raises(KeyError, match="there is no signature 'describe'"):
            version.run("describe", {"query": x})
        with pytest.raises(KeyError, match="there is no signature 'dense'"):
            version.input_dtypes("dense")
    assert not version.has_signature("describe")
    with pytest.raises(KeyError, match="the signature 'serving_default' has no input y, z"):
        version.run("serving_default", {"x": x, "y": x, "z": x})
