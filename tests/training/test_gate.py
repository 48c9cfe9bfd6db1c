from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.processes import training
from training import manifest, warmup
from training.dataset import breast_cancer
from training.gate import RefusedError, Rules, check_export, judge
from training.job import Candidate, FitSettings, fit, gate_and_publish
from training.publish import versions

NAME = "breast_cancer"
NO_FLOORS = Rules({})


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fit(breast_cancer(), FitSettings(), lambda done, cost: None)


@pytest.fixture(scope="module")
def worse() -> Candidate:
    return fit(breast_cancer(), FitSettings(iterations=2), lambda done, cost: None)


@pytest.fixture(scope="module")
def published(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with one version. Do not write to it."""
    models = tmp_path_factory.mktemp("gate")
    gate_and_publish(candidate, NO_FLOORS, models=models, name=NAME)
    return models


@pytest.fixture
def models(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "models"))


def with_metrics(candidate: Candidate, **metrics: float) -> Any:
    return dataclasses.replace(candidate.model, metrics={**candidate.model.metrics, **metrics})


def test_a_version_has_a_manifest_that_says_how_it_came_about(
    published: Path, candidate: Candidate
) -> None:
    facts = manifest.read(published / NAME / "1")
    assert facts is not None
    assert facts["data"]["rows"] == 569
    assert facts["settings"]["seed"] == 0
    assert facts["libraries"]["tensorflow"] == tf.__version__
    assert facts["metrics"] == candidate.model.metrics
    assert facts["gate"] == {
        "passed": True, "reason": "", "forced": False, "compared_with": None,
        "published_metrics": None,
    }  # fmt: skip
    assert {"saved_model.pb", "variables/variables.index"} <= facts["files"].keys()
    assert str(warmup.WARMUP_FILE) in facts["files"]


def test_a_worse_candidate_is_refused_with_one_readable_line(
    models: Path, worse: Candidate
) -> None:
    with pytest.raises(RefusedError) as error:
        gate_and_publish(worse, NO_FLOORS, models=models, name=NAME)
    assert str(error.value).startswith("log_loss ")
    assert "is worse than the published version's 0.0853 on the same rows" in str(error.value)
    assert versions(models / NAME) == [1]
    assert [p.name for p in models.iterdir()] == [NAME]


def test_forcing_is_recorded(models: Path, worse: Candidate) -> None:
    version, verdict = gate_and_publish(worse, NO_FLOORS, models=models, name=NAME, force=True)
    assert verdict.forced
    facts = manifest.read(version)
    assert facts is not None
    assert facts["gate"]["forced"] is True
    assert "worse than the published version's" in facts["gate"]["reason"]
    assert facts["gate"]["compared_with"] == 1


def test_an_equal_candidate_passes_and_is_compared(models: Path, candidate: Candidate) -> None:
    _, verdict = gate_and_publish(candidate, NO_FLOORS, models=models, name=NAME)
    assert verdict.passed
    assert verdict.compared_with == 1
    assert verdict.published_metrics == pytest.approx(candidate.model.metrics, abs=1e-6)


@pytest.mark.parametrize(
    ("metrics", "floors", "reason"),
    [
        ({"accuracy": 0.8}, {"accuracy": 0.9}, "accuracy 0.8000 is below its floor 0.9"),
        ({"log_loss": 0.3}, {"log_loss": 0.2}, "log_loss 0.3000 is above its floor 0.2"),
        ({"log_loss": 0.7}, {}, "log_loss 0.7000 is no better than 0.6612, that of always"),
        ({"log_loss": float("nan")}, {}, "log_loss nan is no better than"),
        ({"auc": float("nan")}, {"auc": 0.5}, "auc nan is below its floor 0.5"),
    ],
)
def test_floors(
    candidate: Candidate, metrics: dict[str, float], floors: dict[str, float], reason: str
) -> None:
    model = with_metrics(candidate, **metrics)
    with pytest.raises(RefusedError) as error:
        judge(model, candidate.held_out, None, Rules(floors), force=False)
    assert str(error.value).startswith(reason)


def test_a_published_version_of_another_table_is_no_yardstick(
    tmp_path: Path, candidate: Candidate
) -> None:
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"probability": tf.sigmoid(x)}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures=other.serve)
    verdict = judge(candidate.model, candidate.held_out, tmp_path / "1", NO_FLOORS, force=False)
    assert verdict.passed
    assert verdict.compared_with is None


def test_an_export_that_answers_otherwise_than_training_is_refused(
    published: Path, candidate: Candidate
) -> None:
    rows = candidate.held_out.features
    expected = candidate.model.probability(rows)
    version = published / NAME / "1"
    check_export(version, rows, expected)
    expected[3] += 1e-4
    with pytest.raises(RefusedError, match=r"row 3 differs from training by 0\.0001"):
        check_export(version, rows, expected)


@pytest.mark.parametrize("torn", ["variables/variables.index", str(warmup.WARMUP_FILE)])
def test_an_export_that_does_not_load_or_answer_is_refused(
    models: Path, candidate: Candidate, torn: str
) -> None:
    (models / NAME / "1" / torn).write_bytes(b"garbage")
    rows = candidate.held_out.features
    with pytest.raises(RefusedError, match=r"the exported version fails its check: .+"):
        check_export(models / NAME / "1", rows, candidate.model.probability(rows))


def test_warm_up_requests_cover_every_signature_that_predict_calls(published: Path) -> None:
    requests = list(warmup.read(published / NAME / "1"))
    signatures = [request.model_spec.signature_name for request in requests]
    assert signatures == ["serving_default", "dense", "explain", "describe"]
    assert set(requests[0].inputs) == set(breast_cancer().columns)


def test_the_float64_probability_is_the_graph_s(candidate: Candidate) -> None:
    rows = breast_cancer().features
    z = (rows - candidate.model.mean) / candidate.model.scale @ candidate.model.weights
    expected = 1 / (1 + np.exp(-(z + candidate.model.bias)))
    np.testing.assert_allclose(candidate.model.probability(rows), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda v: (v / "saved_model.pb").unlink(), "saved_model.pb: missing"),
        (lambda v: (v / "extra").touch(), "extra: not in the manifest"),
        (lambda v: (v / "fingerprint.pb").write_bytes(b"x"), "fingerprint.pb: SHA-256 is"),
        (lambda v: (v / "manifest.json").unlink(), "manifest.json: no manifest that can be read"),
        (lambda v: (v / "manifest.json").write_text("[]"), "no manifest that can be read"),
    ],
)
def test_verify_finds_what_was_changed(models: Path, harm: Any, message: str) -> None:
    version = models / NAME / "1"
    assert manifest.verify(version) == 5
    harm(version)
    with pytest.raises(manifest.VerifyError, match=message):
        manifest.verify(version)


def test_the_commands_around_versions(models: Path) -> None:
    def run(*options: str, command: str = "fit") -> Any:
        return training(command, models, *options)

    refused = run("--iterations=2")
    assert refused.returncode == 3
    assert refused.stderr.splitlines()[-1].startswith("Refused: log_loss ")
    assert refused.stdout == ""

    forced = run("--iterations=2", "--force")
    assert forced.returncode == 0
    assert "Forced: log_loss " in forced.stderr
    assert versions(models / NAME) == [1, 2]

    listed = run(command="versions")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["1", "2"]
    assert "forced: log_loss " in listed.stdout

    back = run(command="rollback")
    assert back.stdout.strip() == str(models / NAME / "3")
    assert "rollback to 1" in run(command="versions").stdout
    one, three = (json.loads((models / NAME / v / "manifest.json").read_text()) for v in "13")
    assert one["files"] == three["files"]
    checked = run(command="verify")
    assert checked.returncode == 0
    assert checked.stdout.count("5 files as published") == 3

    (models / NAME / "1" / "saved_model.pb").write_bytes(b"x")
    assert run(command="verify").returncode == 1
    broken = run("--to=1", command="rollback")
    assert broken.returncode == 1
    assert "cannot go back to 1" in broken.stderr
    assert "no version 9" in run("--to=9", command="rollback").stderr

    kept = run("--keep=2", "--force")
    assert kept.returncode == 0, kept.stderr
    assert versions(models / NAME) == [3, 4]
    assert [p.name for p in models.iterdir()] == [NAME]


def test_a_floor_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    for floor in ("speed=1", "accuracy", "accuracy=high"):
        done = training("fit", tmp_path, f"--floor={floor}")
        assert done.returncode == 2
        assert f"expected METRIC=VALUE with a metric of accuracy, log_loss, auc, got '{floor}'" in (
            " ".join(done.stderr.split())
        )
