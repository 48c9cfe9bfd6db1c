"""Tables to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Rows with a two-valued label.

    Attributes:
        columns: the names of the columns, in order; each is a valid signature input name.
        features: float64, shape `[rows, columns]`.
        labels: float64, shape `[rows]`, 0 or 1.
        class_names: what the labels 0 and 1 stand for.
    """

    columns: tuple[str, ...]
    features: Floats
    labels: Floats
    class_names: tuple[str, str]

    def __len__(self) -> int:
        return len(self.labels)


def breast_cancer() -> Table:
    """Read the 569 × 30 table inside scikit-learn; label 1 is benign, as scikit-learn has it."""
    data = load_breast_cancer()
    malignant, benign = (str(name) for name in data.target_names)
    return Table(
        columns=tuple(str(name).replace(" ", "_") for name in data.feature_names),
        features=data.data.astype(np.float64),
        labels=data.target.astype(np.float64),
        class_names=(malignant, benign),
    )


def split(table: Table, held_out: float, seed: int) -> tuple[Table, Table]:
    """Split the rows at random, keeping the share of each class.

    Args:
        table: the rows to split.
        held_out: share of the rows to hold out, between 0 and 1.
        seed: the same seed gives the same split.

    Returns:
        The rows to train on, and the rows held out.
    """
    train, test = train_test_split(
        np.arange(len(table)), test_size=held_out, random_state=seed, stratify=table.labels
    )
    return _rows(table, train), _rows(table, test)


def _rows(table: Table, index: npt.NDArray[np.int64]) -> Table:
    return Table(table.columns, table.features[index], table.labels[index], table.class_names)
