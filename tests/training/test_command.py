from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, fit


def test_it_trains_shows_the_cost_and_prints_where_the_version_is(tmp_path: Path) -> None:
    done = fit(tmp_path, "--iterations=100")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "breast_cancer" / "1")
    assert (tmp_path / "breast_cancer" / "1" / "saved_model.pb").exists()
    for text in ("569 rows, 30 columns", "0.693147", "accuracy", "log_loss", "auc"):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_unless_published_trains_only_where_nothing_is(trained_models: Path) -> None:
    done = fit(trained_models, "--unless-published")
    assert done.returncode == 0
    assert "has version 1; nothing to train" in done.stdout
    assert [p.name for p in (trained_models / "breast_cancer").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--held-out=1.5"], "1.5 is not in the range 0<x<1"),
        (["--iterations=none"], "'none' is not a valid integer"),
        (["--model=../elsewhere"], "'../elsewhere' cannot name a directory"),
        (["--model=.hidden"], "'.hidden' cannot name a directory"),
        ([f"--model={'a' * 300}"], "cannot name a directory"),
        (["--l2=nan"], "expected a finite number, got nan"),
        (["--learning-rate=0"], "0.0 is not in the range x>0"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: list[str], message: str) -> None:
    done = fit(tmp_path, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_models_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = fit(tmp_path / "file" / "models", "--iterations=1")
    assert done.returncode == 1
    assert "Error: cannot publish to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_learning_rate_that_diverges_publishes_nothing(tmp_path: Path) -> None:
    done = fit(tmp_path, "--learning-rate=1e308")
    assert done.returncode == 1
    assert "diverged" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["training"], ["training", "fit"]])
def test_help(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Usage: python -m training" in done.stdout
