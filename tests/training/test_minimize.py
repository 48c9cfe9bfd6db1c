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

from tests.support.tables import LABEL, fit_table
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


def make_frame(rows: int, columns: int = 3, seed: int = 0) -> pl.DataFrame:
    """Return a table whose label depends only on the first two columns."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns))
    logit = x[:, :2] @ [1.0, -2.0] + random.logistic(size=rows)
    values = {f"x{i}": column for i, column in enumerate(x.T)}
    return pl.DataFrame({**values, LABEL: np.where(logit > 0, "yes", "no")})


FRAME = make_frame(300)
# So many noise columns that a fit soon overfits.
NOISY = make_frame(200, 60)
EARLY_STOPPING = FitSettings(
    optimizer="gradient-descent", learning_rate=0.3, l2=0.0, tolerance=0.0, patience=5
)


def make_source(frame: pl.DataFrame) -> Source:
    return Source("rows", [FrameFile("rows", frame)])


def load_table(frame: pl.DataFrame, settings: FitSettings, folder: Path) -> Table:
    """Return the table that a job reads from a frame."""
    validation = VALIDATION_FRACTION if settings.patience is not None else 0.0
    split = Split(settings.held_out, validation, settings.seed)
    return read_table(make_source(frame), Choice(LABEL), split, folder, Workers(), MEMORY)


def interrupt(after: int, settings: FitSettings, path: Path, frame: pl.DataFrame = FRAME) -> None:
    """Interrupt a job after some steps, leaving a checkpoint."""
    signals = StopSignals()

    def stepped(steps: int, cost: float) -> None:
        signals.requested = steps >= after

    with pytest.raises(InterruptedFitError, match=f"continues after step {after}"):
        fit(
            make_source(frame),
            Choice(LABEL),
            settings,
            signals=signals,
            checkpoint_path=path,
            observer=Observer(stepped=stepped),
        )


def resume(settings: FitSettings, path: Path, frame: pl.DataFrame = FRAME) -> Candidate:
    return fit(make_source(frame), Choice(LABEL), settings, checkpoint_path=path, resume=True)


def resume_error(settings: FitSettings, path: Path, frame: pl.DataFrame = FRAME) -> str:
    with pytest.raises(ResumeError) as caught:
        resume(settings, path, frame)
    return str(caught.value)


@pytest.mark.parametrize("optimizer", ["gradient-descent", "newton", "lbfgs"])
def test_fit_stops_when_gradient_is_below_tolerance(
    tmp_path: Path, optimizer: OptimizerName
) -> None:
    steps = []
    for tolerance in (1e-2, 1e-5):
        settings = FitSettings(optimizer=optimizer, tolerance=tolerance)
        result = fit_table(settings, FRAME).fit
        assert result.reason == "tolerance"
        problem = Problem(load_table(FRAME, settings, tmp_path), settings, MEMORY, Workers())
        _, gradient = problem.objective.cost_and_gradient(result.theta)
        assert 0 < np.abs(gradient).max() <= tolerance
        steps.append(result.progress.state.steps)
    assert steps[0] < steps[1]


def test_sgd_stops_when_cost_change_is_below_tolerance() -> None:
    settings = FitSettings(optimizer="sgd", iterations=200, tolerance=1e-4)
    result = fit_table(settings, FRAME).fit
    changes = np.abs(np.diff(result.progress.costs))
    assert result.reason == "tolerance"
    assert changes[-1] <= 1e-4
    assert (changes[:-1] > 1e-4).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fit_stops_at_iteration_limit_and_reports_each_step(optimizer: OptimizerName) -> None:
    reported: list[tuple[int, float]] = []
    result = fit(
        make_source(FRAME),
        Choice(LABEL),
        FitSettings(optimizer=optimizer, iterations=3, tolerance=0.0),
        observer=Observer(stepped=lambda steps, cost: reported.append((steps, cost))),
    ).fit
    assert result.reason == "iterations"
    assert [steps for steps, _ in reported] == [1, 2, 3]
    assert [cost for _, cost in reported] == result.progress.costs[-3:]
    assert result.progress.costs[-1] < result.progress.costs[-3]


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_fit_stops_at_limit_of_precision(tmp_path: Path, optimizer: OptimizerName) -> None:
    settings = FitSettings(optimizer=optimizer, tolerance=0.0)
    result = fit_table(settings, FRAME).fit
    assert result.reason == "precision"
    assert len(result.progress.costs) == result.progress.state.steps + 1
    problem = Problem(load_table(FRAME, settings, tmp_path), settings, MEMORY, Workers())
    _, gradient = problem.objective.cost_and_gradient(result.theta)
    assert np.abs(gradient).max() < 1e-8


def test_early_stopping_returns_weights_with_lowest_validation_cost(tmp_path: Path) -> None:
    result = fit_table(EARLY_STOPPING, NOISY).fit
    costs = result.progress.validation_costs
    best = int(np.argmin(costs))
    assert result.reason == "early stopping"
    assert 0 < best == len(costs) - 1 - 5
    assert result.progress.state.steps == len(costs) - 1
    validation = Problem(
        load_table(NOISY, EARLY_STOPPING, tmp_path), EARLY_STOPPING, MEMORY, Workers()
    ).validation
    assert validation is not None
    assert validation.cost_and_gradient(result.theta)[0] == pytest.approx(costs[best], rel=1e-12)
    assert validation.cost_and_gradient(result.progress.state.theta)[0] > costs[best]

    longer = fit_table(replace(EARLY_STOPPING, patience=100), NOISY).fit
    assert min(longer.progress.validation_costs) == pytest.approx(costs[best], abs=1e-3)
    unlimited = fit_table(replace(EARLY_STOPPING, patience=None), NOISY).fit
    assert unlimited.reason == "iterations"
    assert unlimited.progress.validation_costs == []


@pytest.mark.parametrize("optimizer", ["sgd", "newton", "lbfgs"])
def test_other_optimizers_stop_early(optimizer: OptimizerName) -> None:
    settings = FitSettings(optimizer=optimizer, l2=0.0, tolerance=0.0, patience=2, iterations=200)
    result = fit_table(settings, NOISY).fit
    costs = result.progress.validation_costs
    assert result.reason == "early stopping"
    assert len(costs) - 1 - int(np.argmin(costs)) == 2


def test_validation_rows_are_not_trained_on(tmp_path: Path) -> None:
    table = load_table(NOISY, EARLY_STOPPING, tmp_path)
    splits = [
        set(spool.read(0, spool.rows).key.tolist())
        for spool in (table.train, table.validation, table.held_out)
    ]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(NOISY)
    assert len(splits[1]) == pytest.approx(0.1 * 0.7 * len(NOISY), abs=10)
    objective = Problem(table, EARLY_STOPPING, MEMORY, Workers()).objective
    assert objective.total_weight == len(splits[0])
    assert sum(len(block.labels) for block in objective.blocks) == len(splits[0])


@pytest.mark.parametrize("patience", [None, 30])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_fit_equals_uninterrupted_fit(
    tmp_path: Path, optimizer: OptimizerName, patience: int | None
) -> None:
    settings = FitSettings(optimizer=optimizer, iterations=40, tolerance=1e-9, patience=patience)
    expected = fit_table(settings, FRAME).fit
    path = tmp_path / "models" / "checkpoint"
    interrupt(3, settings, path)
    resumed = resume(settings, path).fit
    assert resumed.theta.tobytes() == expected.theta.tobytes()
    assert resumed.progress.costs == expected.progress.costs
    assert resumed.progress.validation_costs == expected.progress.validation_costs
    assert bool(resumed.progress.validation_costs) == (patience is not None)
    assert resumed.reason == expected.reason
    assert resumed.progress.state.steps == expected.progress.state.steps > 3
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint"]


def test_resumed_fit_can_be_interrupted_again(tmp_path: Path) -> None:
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, tmp_path / "checkpoint")
    signals = StopSignals()
    signals.requested = True
    with pytest.raises(InterruptedFitError, match="continues after step 2"):
        fit(
            make_source(FRAME),
            Choice(LABEL),
            settings,
            signals=signals,
            checkpoint_path=tmp_path / "checkpoint",
            resume=True,
        )
    resumed = resume(settings, tmp_path / "checkpoint").fit
    assert resumed.theta.tobytes() == fit_table(settings, FRAME).fit.theta.tobytes()


@pytest.mark.parametrize(
    ("changed", "message"),
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
def test_resuming_with_another_setting_is_rejected(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, tmp_path / "checkpoint")
    assert resume_error(replace(settings, **changed), tmp_path / "checkpoint") == message


def test_resuming_with_other_rows_is_rejected(tmp_path: Path) -> None:
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, tmp_path / "checkpoint")
    message = resume_error(settings, tmp_path / "checkpoint", make_frame(301))
    assert message == "the interrupted fit had data rows 300, this one has 301"
    one_value = FRAME.with_columns(x0=pl.Series([1.5, *FRAME["x0"][1:]]))
    message = resume_error(settings, tmp_path / "checkpoint", one_value)
    assert message.startswith("the interrupted fit had data hash '")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(LABEL, positive="no"), "data classes ['no', 'yes'], this one has ['yes', 'no']"),
        (Choice(LABEL, kinds={"flag": "categorical"}), "data kinds {'flag': 'boolean', "),
    ],
)
def test_resuming_with_other_classes_or_kinds_is_rejected(
    tmp_path: Path, choice: Choice, message: str
) -> None:
    settings, path = FitSettings(optimizer="lbfgs", tolerance=1e-9), tmp_path / "checkpoint"
    frame = FRAME.with_columns(flag=pl.Series(["true", "false"] * 150))
    interrupt(2, settings, path, frame)
    with pytest.raises(ResumeError, match=re.escape(message)):
        fit(make_source(frame), choice, settings, checkpoint_path=path, resume=True)


def test_missing_checkpoint_is_reported_with_path(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    assert resume_error(FitSettings(), path) == f"there is no checkpoint {path} to resume from"


def test_damaged_checkpoint_is_reported_with_path(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    settings = FitSettings(optimizer="lbfgs", tolerance=1e-9)
    interrupt(2, settings, path)
    content = path.read_bytes()
    middle = len(content) // 2
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    damaged = {
        "empty": b"",
        "text": b"not a checkpoint\n",
        "truncated": content[:middle],
        "without header": content[middle:],
        "overwritten": content[: middle - 200] + b"\0" * 400 + content[middle + 200 :],
    }
    for case, data in damaged.items():
        path.write_bytes(data)
        assert f"{path} is not a checkpoint: " in resume_error(settings, path), case
    with path.open("wb") as file:
        np.save(file, arrays["theta"])
    assert f"{path} is not a checkpoint: " in resume_error(settings, path)
    for name in arrays:
        if not name.startswith(checkpoint.MEMORY_PREFIX):
            with path.open("wb") as file:
                np.savez(file, **{other: arrays[other] for other in arrays if other != name})
            assert f"{path} is not a checkpoint: " in resume_error(settings, path), name
    path.write_bytes(content)
    assert resume(settings, path).fit.reason == "tolerance"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_same_seed_gives_identical_fit_and_another_seed_another_split(
    optimizer: OptimizerName,
) -> None:
    settings = FitSettings(optimizer=optimizer, seed=3)
    first, second = (fit_table(settings, FRAME) for _ in range(2))
    assert first.fit.theta.tobytes() == second.fit.theta.tobytes()
    assert first.fit.progress.costs == second.fit.progress.costs
    assert first.model.metrics == second.model.metrics
    other = fit_table(replace(settings, seed=4), FRAME)
    assert set(first.held_out.keys.tolist()) != set(other.held_out.keys.tolist())
    assert first.fit.theta.tobytes() != other.fit.theta.tobytes()


def test_two_processes_give_identical_weights() -> None:
    program = (
        "from tests.support.tables import fit_table; from training.settings import FitSettings\n"
        "print(fit_table(FitSettings(optimizer='sgd', iterations=5)).fit.theta.tobytes().hex())"
    )
    processes = [
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
    first, second = (process.communicate(timeout=300)[0].strip() for process in processes)
    assert len(first) == 16 * 31
    assert first == second
