"""Agreement of an exported version with training, for numbers of any magnitude."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import tensorflow as tf

from training.data.reading import FrameFile, Source
from training.data.table import Choice
from training.errors import RefusedError
from training.export import warmup
from training.export.serving_module import export
from training.features.categorical import CategoricalColumn
from training.pipeline import Candidate, fit
from training.publishing import export_check, fresh_process
from training.publishing.export_check import check_export
from training.publishing.fresh_process import FreshProcess
from training.publishing.saved_version import SavedVersion
from training.settings import FitSettings

ROWS = 1500
KINDS = ("numeric", "numeric", "date", "categorical", "categorical", "boolean")


@dataclass(frozen=True)
class ExportedCandidate:
    """A candidate and its export."""

    candidate: Candidate
    directory: Path
    version: SavedVersion


def make_table() -> pl.DataFrame:
    """Return a table with predictive columns far from 0, and a column of each kind."""
    random = np.random.default_rng(5)
    x, t, when = (random.normal(size=ROWS) for _ in range(3))
    plan = random.choice(["basic", "plus", "pro"], ROWS, p=[0.5, 0.3, 0.2])
    code = random.choice(["1001.0", "1002", "1003"], ROWS)
    logit = x + t - when + 1.5 * (plan == "plus") - 1.5 * (plan == "pro")
    frame = pl.DataFrame(
        {
            "pressure": (1013.2 + 4 * x).round(1),
            "at_ms": np.round(1.7e12 + 8000 * t).astype(np.int64),
            "day": pl.Series(np.round(19_000 + 200 * when)).cast(pl.Int32).cast(pl.Date),
            "plan": plan,
            "code": pl.Series(code),
            "paid": random.random(ROWS) < 0.7,
            "y": np.where(random.random(ROWS) < 1 / (1 + np.exp(-logit)), "yes", "no"),
        }
    )
    unknown = pl.Series(random.random(ROWS) < 0.1)
    return frame.with_columns(day=pl.when(~unknown).then(pl.col("day")))


def fit_candidate(frame: pl.DataFrame) -> Candidate:
    source = Source("rows", [FrameFile("rows", frame)])
    choice = Choice("y", kinds={"code": "categorical"})
    return fit(source, choice, FitSettings(optimizer="newton"))


def check_in_this_process(exported: ExportedCandidate, candidate: Candidate, folder: Path) -> None:
    """Check an export in this process, which is faster than starting another."""
    expected, frame = candidate.held_out.expected, candidate.held_out.frame
    inputs = candidate.model.inputs(frame[: len(expected.probabilities)])
    values = (expected.probabilities, expected.contributions, expected.tolerances)
    outputs: Mapping[str, npt.NDArray[Any]] = dict(
        zip(export_check.EXPECTED_OUTPUTS, values, strict=True)
    )
    warmup.write_calls(folder / "golden", [warmup.Call("serving_default", inputs, dict(outputs))])
    export_check._check_in_this_process(exported.directory, folder / "golden")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedCandidate:
    candidate = fit_candidate(make_table())
    directory = tmp_path_factory.mktemp("version")
    export(candidate.model, directory)
    warmup.write(candidate.model, directory)
    return ExportedCandidate(candidate, directory, SavedVersion(directory))


def test_export_check_passes_for_numbers_far_from_zero(exported: ExportedCandidate) -> None:
    with FreshProcess() as process:  # started early, as in the command
        check_export(
            exported.directory, exported.candidate.held_out, exported.candidate.model, process
        )
    assert exported.candidate.model.metrics["auc"] > 0.8


def test_dates_and_numbers_beyond_float32_precision_are_float64_inputs(
    exported: ExportedCandidate,
) -> None:
    dtypes = {column.name: column.dtype for column in exported.candidate.model.columns}
    assert dtypes == {
        "pressure": tf.float32,
        "at_ms": tf.float64,
        "day": tf.float64,
        "plan": tf.string,
        "code": tf.int64,
        "paid": tf.bool,
    }
    kinds = exported.version.run("describe", {"query": np.zeros(1, np.int32)})["kinds"][0]
    assert kinds.tolist() == [kind.encode() for kind in KINDS]


def test_swapped_categories_are_refused_with_row_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: ExportedCandidate
) -> None:
    indices = CategoricalColumn.indices

    def swap_indices(column: CategoricalColumn, codes: Mapping[str, int]) -> npt.NDArray[np.int32]:
        swapped = indices(column, codes)
        if column.name == "plan":
            first, second = (1 + list(codes).index(value) for value in ("basic", "plus"))
            swapped[[first, second]] = swapped[[second, first]]
        return swapped

    monkeypatch.setattr(CategoricalColumn, "indices", swap_indices)
    incorrect = fit_candidate(make_table())
    export(incorrect.model, tmp_path)
    warmup.write(incorrect.model, tmp_path)
    incorrect_export = ExportedCandidate(incorrect, tmp_path, SavedVersion(tmp_path))
    with pytest.raises(RefusedError, match=r"^row \d+, column 'plan' differs from training by 0\."):
        check_in_this_process(incorrect_export, incorrect, tmp_path)


@pytest.mark.parametrize("name", ["pressure", "at_ms", "day"])
def test_shifted_column_mean_is_refused(
    tmp_path: Path, exported: ExportedCandidate, name: str
) -> None:
    columns = tuple(
        replace(column, mean=column.mean + 0.01 * column.deviation)
        if column.name == name
        else column
        for column in exported.candidate.model.columns
    )
    export(replace(exported.candidate.model, columns=columns), tmp_path)
    warmup.write(exported.candidate.model, tmp_path)
    shifted = ExportedCandidate(exported.candidate, tmp_path, SavedVersion(tmp_path))
    with pytest.raises(RefusedError, match=rf"^row \d+, column '{name}' differs from training"):
        check_in_this_process(shifted, exported.candidate, tmp_path)


def test_tolerances_are_small(exported: ExportedCandidate) -> None:
    tolerances = exported.candidate.held_out.expected.tolerances
    assert tolerances.min() >= 1e-6
    assert tolerances.max() < 2e-5


def typical_row(exported: ExportedCandidate) -> dict[str, npt.NDArray[Any]]:
    model = exported.candidate.model
    return {name: values[:1] for name, values in model.inputs(model.typical_rows()).items()}


@pytest.mark.parametrize(
    ("name", "value", "equivalent"),
    [
        ("plan", b"  plus\t", b"plus"),
        ("plan", b" NA ", b""),
        ("plan", b"never seen", b""),
        ("pressure", np.nan, None),
        ("at_ms", np.nan, None),
        ("code", -(2**63), 7),
    ],
)
def test_served_cells_are_parsed_like_table_cells(
    exported: ExportedCandidate, name: str, value: Any, equivalent: Any
) -> None:
    row = typical_row(exported)
    column = next(c for c in exported.candidate.model.columns if c.name == name)
    expected = column.mean if equivalent is None else equivalent

    def contribution(cell: Any) -> float:
        inputs = {**row, name: np.array([cell], row[name].dtype)}
        names = [c.name for c in exported.candidate.model.columns]
        contributions = exported.version.run("explain", inputs)["contribution"][0]
        return float(contributions[names.index(name)])

    assert contribution(value) == pytest.approx(contribution(expected), abs=1e-4)


def test_warns_about_column_that_leaks_label(exported: ExportedCandidate) -> None:
    assert exported.candidate.warnings == ()
    frame = make_table()
    status = pl.Series(np.where(frame["y"] == "yes", "settled", "open"))
    leaking = fit_candidate(frame.with_columns(status=status))
    (warning,) = leaking.warnings
    assert warning.startswith("column 'status' alone predicts 'y' on held-out rows with AUC 1.0000")
    assert "--leave-out 'status'" in warning


def test_check_returns_reason_from_tensorflow_error(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "Graph execution error:\n\nassertion failed: [x]\n\t [[{{node Assert}}]] [Op:serve]"
    command = (sys.executable, "-c", f"import sys; sys.stdin.read(); sys.exit({error!r})")
    monkeypatch.setattr(fresh_process, "COMMAND", command)
    monkeypatch.setattr(fresh_process, "subprocess", subprocess)  # instead of conftest's fork
    with FreshProcess() as process:
        assert process.check(Path("x"), Path("y")) == "assertion failed: [x]"
