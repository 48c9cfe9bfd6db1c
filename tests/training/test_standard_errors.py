from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as statsmodels  # type: ignore[import-untyped]

from tests.support.tables import LABEL
from training.data.choose import Choice
from training.data.reading import FrameFile, Source
from training.data.split import Split
from training.data.table import read_table
from training.evaluation.report import Coefficient
from training.features.columns import Floats
from training.fitting.problem import Problem
from training.settings import FitSettings
from training.workers.collectives import Workers

MEMORY = 1 << 30


def make_frame() -> pl.DataFrame:
    random = np.random.default_rng(5)
    x = random.normal(size=(700, 3)) * [1, 40, 0.02] + [0, 100, 1]
    logit = x @ [0.8, -0.03, 20.0] - 17.5
    return pl.DataFrame(
        {
            **{f"x{i}": column for i, column in enumerate(x.T)},
            "times": random.integers(1, 5, 700).astype(float),
            LABEL: np.where(logit + random.logistic(size=700) > 0, "yes", "no"),
        }
    )


def fit_problem(folder: Path, weight: str | None, **settings: Any) -> tuple[Problem, Floats]:
    fit_settings = FitSettings(optimizer="newton", tolerance=1e-10, **settings)
    choice = Choice(LABEL, weight=weight, leave_out=() if weight else ("times",))
    source, split = Source("rows", [FrameFile("rows", make_frame())]), Split(0.3, 0.0, 0)
    table = read_table(source, choice, split, folder, Workers(), MEMORY)
    problem = Problem(table, fit_settings, MEMORY, Workers())
    return problem, problem.fit(None, lambda steps, cost: None, lambda: False).theta


def training_arrays(problem: Problem) -> tuple[Floats, Floats, Floats]:
    """Return features with a trailing column of ones, labels and row weights."""
    (block,) = ([tensor.numpy() for tensor in block] for block in problem.objective.blocks)
    features, labels, weights = block
    return np.column_stack([features, np.ones(len(labels))]), labels, weights


@pytest.mark.parametrize("weight", [None, "times"])
def test_unpenalised_standard_errors_match_statsmodels(tmp_path: Path, weight: str | None) -> None:
    problem, theta = fit_problem(tmp_path, weight, l2=0.0)
    features, labels, weights = training_arrays(problem)
    family = statsmodels.families.Binomial()
    reference = statsmodels.GLM(labels, features, family, freq_weights=weights).fit(tol=1e-12)
    np.testing.assert_allclose(theta, reference.params, rtol=1e-4)
    errors = problem.standard_errors(theta)
    assert errors is not None
    np.testing.assert_allclose(errors, reference.bse, rtol=1e-4)

    # Odds ratios are per unit of the column; one unit is 1 / deviation of the scaled feature.
    deviations = [column.deviation for column in problem.table.columns]
    expected = np.exp(reference.conf_int()[:3] / np.array(deviations)[:, np.newaxis])
    for i, deviation in enumerate(deviations):
        coefficient = Coefficient("x", "x", theta[i], errors[i], theta[i] / deviation)
        interval = coefficient.log_odds_ratio_interval or (0.0, 0.0)
        assert np.exp(interval) == pytest.approx(expected[i].tolist(), rel=1e-3)


@pytest.mark.parametrize("weight", [None, "times"])
@pytest.mark.parametrize("class_weight", [None, {"yes": 3.0}])
def test_ridge_standard_errors_match_closed_form(
    tmp_path: Path, weight: str | None, class_weight: dict[str, float] | None
) -> None:
    problem, theta = fit_problem(tmp_path, weight, l2=25.0, class_weight=class_weight)
    features, _, weights = training_arrays(problem)
    a = 1 / (1 + np.exp(-features @ theta))
    hessian = features.T @ (features * (weights * a * (1 - a))[:, np.newaxis])
    expected = np.sqrt(np.diag(np.linalg.inv(hessian + 25.0 * np.diag([1, 1, 1, 0]))))
    errors = problem.standard_errors(theta)
    assert errors is not None
    np.testing.assert_allclose(errors, expected, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"l1": 1.0}, {"loss": "squared"}])
def test_no_standard_errors_for_l1_penalty_or_squared_loss(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    problem, theta = fit_problem(tmp_path, None, **settings)
    assert problem.standard_errors(theta) is None
