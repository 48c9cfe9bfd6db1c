"""The built-in table as arrays, for tests that send its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data import datasets as builtin
from training.data.reading import FrameFile, Source
from training.data.table import Choice
from training.pipeline import Candidate, fit
from training.settings import FitSettings

LABEL = "diagnosis"


@dataclass(frozen=True)
class Arrays:
    """Column names, features `[rows, columns]`, 0/1 labels `[rows]` and class names."""

    columns: tuple[str, ...]
    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    class_names: tuple[str, str]


def breast_cancer() -> Arrays:
    frame = builtin.breast_cancer()
    rows = frame.drop(LABEL)
    return Arrays(
        columns=tuple(rows.columns),
        features=rows.to_numpy(),
        labels=(frame[LABEL] == "benign").to_numpy().astype(np.float64),
        class_names=("malignant", "benign"),
    )


def fit_table(settings: FitSettings | None = None, frame: pl.DataFrame | None = None) -> Candidate:
    """Fit the built-in table, or another with the same label column."""
    source = builtin.source("breast_cancer")
    if frame is not None:
        source = Source("rows", [FrameFile("rows", frame)])
    return fit(source, Choice(LABEL), settings or FitSettings())
