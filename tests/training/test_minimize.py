from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from tests.support.tables import LABEL, fitted
from training.data.reading import FrameFile, Source
from training.data.split import Split
from training.data.table import Choice, Table, read_table
from training.errors import ResumeError
from training.fitting import checkpoint
from training.fitting.interruption import StopSignals
from training.fitting.minimize import InterruptedFitError
from training.fitting.problem import Problem
from training.pipeline import VALIDATION_FRACTION, Candidate, Observer, fit
from training.settings import FitSettings, OptimizerName
from training.workers.collectives import Workers

OPTIMIZERS = get_args(OptimizerName)
MEMORY = 1 << 30
ROOT = Path(__file__).parents[2]


def frame_of(rows: int, columns: int = 3, seed: int = 0) -> pl.DataFrame:
    """A table whose label depends on the first two columns only."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns))
    logit = x[:, :2] @ [1.0, -2.0] + random.logistic(size=rows)
    values = {f"x{i}": column for i, column in enumerate(x.T)}
    return pl.DataFrame({**values, LABEL: np.where(logit > 0, "yes", "no")})


FRAME = frame_of(300)
# So many columns of noise that fitting them is soon a loss.
NOISY = frame_of(200, 60)
EARLY = FitSettings(
    optimizer="gradient-descent", learning_rate=0.3, l2=0.0, tolerance=0.0, patience=5
)


def source_of(frame: pl.DataFrame) -> Source:
    return Source("rows", [FrameFile("rows", frame)])


def table_of(frame: pl.DataFrame, settings: FitSettings, folder: Path) -> Table:
    """Return the table that a job reads from a frame."""
    validation = VALIDATION_FRACTION if settings.patience is not None else 0.0
    split = Split(settings.held_out, validation, settings.seed)
    return read_table(source_of(frame), Choice(LABEL), split, folder, Workers(), MEMORY)


def interrupt(after: int, settings: FitSettings, saved: Path, frame: pl.DataFrame = FRAME) -> None:
    """Interrupt a job after some steps, so that it leaves a checkpoint."""
    signals = StopSignals()

    def stepped(steps: int, cost: float) -> None:
        signals.requested = steps >= after

    with pytest.raises(InterruptedFitError, match=f"continues after step {after}"):
        fit(
            source_of(frame),
            Choice(LABEL),
            settings,
            signals=signals,
            checkpoint_path=saved,
            observer=Observer(stepped=stepped),
        )


def resume(settings: FitSettings, saved: Path, frame: pl.DataFrame = FRAME) -> Candidate:
    return fit(source_of(frame), Choice(LABEL), settings, checkpoint_path=saved, resume=True)


def resume_error(settings: FitSettings, saved: Path, frame: pl.DataFrame = FRAME) -> str:
    with pytest.raises(ResumeError) as caught:
        resume(settings, saved, frame)
    return str(caught.value)


@pytest.mark.parametrize("optimizer", ["gradient-descent", "newton", "lbfgs"])
def test_it_stops_when_the_derivatives_are_below_the_tolerance(
    tmp_path: Path, optimizer: OptimizerName
) -> None:
    steps = []
    for tolerance in (1e-2, 1e-5):
        settings = FitSettings(optimizer=optimizer, tolerance=tolerance)
        result = fitted(settings, FRAME).fit
        assert result.reason == "tolerance"
        problem = Problem(table_of(FRAME, settings, tmp_path), settings, MEMORY, Workers())
        _, gradient = problem.objective.cost_and_gradient(result.theta)
        assert 0 < np.abs(gradient).max() <= tolerance
        steps.append(result.progress.state.steps)
    assert steps[0] < steps[1]


def test_stochastic_descent_stops_when_the_cost_changes_no_more() -> None:
    settings = FitSettings(optimizer="sgd", iterations=200, tolerance=1e-4)
    result = fitted(settings, FRAME).fit
    changes = np.abs(np.diff(result.progress.costs))
    assert result.reason == "tolerance"
    assert changes[-1] <= 1e-4
    assert (changes[:-1] > 1e-4).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_stops_after_so_many_iterations_and_reports_each(optimizer: OptimizerName) -> None:
    reported: list[tuple[int, float]] = []
    result = fit(
        source_of(FRAME),
        Choice(LABEL),
        FitSettings(optimizer=optimizer, iterations=3, tolerance=0.0),
        observer=Observer(stepped=lambda steps, cost: reported.append((steps, cost))),
    ).fit
    assert result.reason == "iterations"
    assert [steps for steps, _ in reported] == [1, 2, 3]
    assert [cost for _, cost in reported] == result.progress.costs[-3:]
    assert result.progress.costs[-1] < result.progress.costs[-3]


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_it_stops_where_rounding_leaves_nothing_to_gain(
    tmp_path: Path, optimizer: OptimizerName
) -> None:
    settings = FitSettings(optimizer=optimizer, tolerance=0.0)
    result = fitted(settings, FRAME).fit
    assert result.reason == "precision"
    assert len(result.progress.costs) == result.progress.state.steps + 1
    problem = Problem(table_of(FRAME, settings, tmp_path), settings, MEMORY, Workers())
    _, gradient = problem.objective.cost_and_gradient(result.theta)
    assert np.abs(gradient).max() < 1e-8


def test_stopping_early_returns_the_weights_with_the_least_validation_cost(tmp_path: Path) -> None:
    result = fitted(EARLY, NOISY).fit
    costs = result.progress.validation_costs
    best = int(np.argmin(costs))
    assert result.reason == "early stopping"
    assert 0 < best == len(costs) - 1 - 5
    assert result.progress.state.steps == len(costs) - 1
    validation = Problem(table_of(NOISY, EARLY, tmp_path), EARLY, MEMORY, Workers()).validation
    assert validation is not None
    assert validation.cost_and_gradient(result.theta)[0] == pytest.approx(costs[best], rel=1e-12)
    assert validation.cost_and_gradient(result.progress.state.theta)[0] > costs[best]

    longer = fitted(replace(EARLY, patience=100), NOISY).fit
    assert min(longer.progress.validation_costs) == pytest.approx(costs[best], abs=1e-3)
    unlimited = fitted(replace(EARLY, patience=None), NOISY).fit
    assert unlimited.reason == "iterations"
    assert unlimited.progress.validation_costs == []


@pytest.mark.parametrize("optimizer", ["sgd", "newton", "lbfgs"])
def test_every_optimizer_stops_early(optimizer: OptimizerName) -> None:
    settings = FitSettings(optimizer=optimizer, l2=0.0, tolerance=0.0, patience=2, iterations=200)
    result = fitted(settings, NOISY).fit
    costs = result.progress.validation_costs
    assert result.reason == "early stopping"
    assert len(costs) - 1 - int(np.argmin(costs)) == 2


def test_validation_rows_are_not_trained_on(tmp_path: Path) -> None:
    table = table_of(NOISY, EARLY, tmp_path)
    shares = [
        set(spool.read(0, spool.rows).key.tolist())
        for spool in (table.train, table.validation, table.held_out)
    ]
    assert sum(map(len, shares)) == len(set.union(*shares)) == len(NOISY)
    assert len(shares[1]) == pytest.approx(0.1 * 0.7 * len(NOISY), abs=10)
    objective = Problem(table, EARLY, MEMORY, Workers()).objective
    assert objective.total_weight == len(shares[0])
    assert sum(len(block.labels) for block in objective.blocks) == len(shares[0])


@pytest.mark.parametrize("patience", [None, 30])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_interrupted_fit_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, optimizer: OptimizerName, patience: int | None
) -> None:
    settings = FitSettings(optimizer=optimizer, iterations=40, tolerance=1e-9, patience=patience)
    expected = fitted(settings, FRAME).fit
    saved = tmp_path / "models" / "checkpoint"
    interrupt(3, settings, saved)
    ours = resume(settings, saved).fit
    assert ours.theta.tobytes() == expected.theta.tobytes()
    assert ours.progress.costs == expected.progress.costs
    assert ours.progress.validation_costs == expected.progress.validation_costs
    assert bool(ours.progress.validation_costs) == (patience is not None)
    assert ours.reason == expected.reason
    assert ours.progress.state.steps == expected.progress.state.steps > 3
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]


def test_a_fit_can_be_interrupted_again(tmp_path: Path) -> None:
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, tmp_path / "first")
    signals = StopSignals()
    signals.requested = True
    with pytest.raises(InterruptedFitError, match="continues after step 2"):
        fit(
            source_of(FRAME),
            Choice(LABEL),
            settings,
            signals=signals,
            checkpoint_path=tmp_path / "first",
            resume=True,
        )
    ours = resume(settings, tmp_path / "first").fit
    assert ours.theta.tobytes() == fitted(settings, FRAME).fit.theta.tobytes()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "the interrupted fit had seed 0, this one has 1"),
        ({"l2": 0.5}, "the interrupted fit had l2 1.0, this one has 0.5"),
        (
            {"optimizer": "newton"},
            "the interrupted fit had optimizer 'lbfgs', this one has 'newton'",
        ),
        (
            {"class_weight": {"yes": 2.0}},
            "the interrupted fit had class_weight None, this one has {'yes': 2.0}",
        ),
    ],
)
def test_going_on_with_another_setting_is_an_error_that_names_both(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, tmp_path / "saved")
    assert resume_error(replace(settings, **changed), tmp_path / "saved") == said


def test_resuming_with_other_rows_is_an_error_that_names_the_difference(tmp_path: Path) -> None:
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, tmp_path / "saved")
    said = resume_error(settings, tmp_path / "saved", frame_of(301))
    assert said == "the interrupted fit had data rows 300, this one has 301"
    one_value = FRAME.with_columns(x0=pl.Series([1.5, *FRAME["x0"][1:]]))
    said = resume_error(settings, tmp_path / "saved", one_value)
    assert said.startswith("the interrupted fit had data hash '")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice(LABEL, positive="no"), "data classes ['no', 'yes'], this one has ['yes', 'no']"),
        (Choice(LABEL, kinds={"flag": "categorical"}), "data kinds {'flag': 'boolean', "),
    ],
)
def test_resuming_with_other_classes_or_kinds_is_an_error(
    tmp_path: Path, choice: Choice, said: str
) -> None:
    settings, saved = FitSettings(optimizer="lbfgs", tolerance=1e-9), tmp_path / "saved"
    frame = FRAME.with_columns(flag=pl.Series(["true", "false"] * 150))
    interrupt(2, settings, saved, frame)
    with pytest.raises(ResumeError, match=re.escape(said)):
        fit(source_of(frame), choice, settings, checkpoint_path=saved, resume=True)


def test_a_missing_checkpoint_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert resume_error(FitSettings(), saved) == f"there is no checkpoint {saved} to resume from"


def test_a_damaged_checkpoint_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, saved)
    whole = saved.read_bytes()
    middle = len(whole) // 2
    with np.load(saved) as stored:
        arrays = {name: stored[name] for name in stored.files}
    damaged = {
        "empty": b"",
        "text": b"not a checkpoint\n",
        "cut off": whole[:middle],
        "without its beginning": whole[middle:],
        "overwritten": whole[: middle - 200] + b"\0" * 400 + whole[middle + 200 :],
    }
    for what, data in damaged.items():
        saved.write_bytes(data)
        assert f"{saved} is not a checkpoint: " in resume_error(settings, saved), what
    with saved.open("wb") as file:
        np.save(file, arrays["theta"])
    assert f"{saved} is not a checkpoint: " in resume_error(settings, saved)
    for name in arrays:
        if not name.startswith(checkpoint.MEMORY_PREFIX):
            with saved.open("wb") as file:
                np.savez(file, **{other: arrays[other] for other in arrays if other != name})
            assert f"{saved} is not a checkpoint: " in resume_error(settings, saved), name
    saved.write_bytes(whole)
    assert resume(settings, saved).fit.reason == "tolerance"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_bit_for_bit_and_another_one_another_split(
    optimizer: OptimizerName,
) -> None:
    settings = FitSettings(optimizer=optimizer, seed=3)
    first, second = (fitted(settings, FRAME) for _ in range(2))
    assert first.fit.theta.tobytes() == second.fit.theta.tobytes()
    assert first.fit.progress.costs == second.fit.progress.costs
    assert first.model.metrics == second.model.metrics
    other = fitted(replace(settings, seed=4), FRAME)
    assert set(first.held_out.keys.tolist()) != set(other.held_out.keys.tolist())
    assert first.fit.theta.tobytes() != other.fit.theta.tobytes()


def test_two_processes_give_the_same_bit_for_bit() -> None:
    program = (
        "from tests.support.tables import fitted; from training.settings import FitSettings\n"
        "print(fitted(FitSettings(optimizer='sgd', iterations=5)).fit.theta.tobytes().hex())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for seed in (1, 2)
    ]
    first, second = (process.communicate(timeout=300)[0].strip() for process in running)
    assert len(first) == 16 * 31
    assert first == second
