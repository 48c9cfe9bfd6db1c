"""The label's two values, and which of them is class 1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from training.data.prepare import Prepared
from training.errors import DataError
from training.features.numeric import CLASSES
from training.workers.collectives import Workers

# Values that usually mean class 1.
POSITIVES = ("1", "true", "yes", "y", "t", "positive", "benign")


class Labels:
    """Numbers the label's values in order of appearance."""

    def __init__(self, name: str, positive: str | None) -> None:
        """Take the column's name, and the value that is class 1 if it is known."""
        self.name, self.positive = name, positive
        self.numbers: dict[str, int] = {}

    def encode(self, prepared: Prepared) -> npt.NDArray[np.int32]:
        """Return the number of each row's label.

        Raises:
            DataError: there is a third value.
        """
        for place, value in enumerate(prepared.label.values):
            if len(self.numbers) == CLASSES and value not in self.numbers:
                row = int((prepared.label.codes == place).argmax())
                known = " and ".join(repr(name) for name in self.numbers)
                raise DataError(
                    f"{prepared.part.place(row)}, column {self.name!r}: expected a label "
                    f"of two values, got {value!r} after {known}"
                )
            self.numbers.setdefault(value, len(self.numbers))
        numbers = np.array([self.numbers[value] for value in prepared.label.values], np.int32)
        return numbers[prepared.label.codes]

    def classes(self, workers: Workers) -> tuple[tuple[str, str], npt.NDArray[np.int32]]:
        """Return the names of class 0 and 1, and the class of each label's number.

        Raises:
            DataError: the label does not have two values, or `positive` is neither of them.
        """
        found = sorted({name for names in workers.gather(list(self.numbers)) for name in names})
        label = f"column {self.name!r}"
        if len(found) != CLASSES:
            listing = ", ".join(repr(name) for name in found[:5]) or "none"
            raise DataError(f"{label}: expected a label of two values, got {listing}")
        positive = None if self.positive is None else self.positive.strip()
        if positive is None:
            usual = [name for name in found if name.lower() in POSITIVES]
            positive = usual[0] if len(usual) == 1 else found[1]
        elif positive not in found:
            raise DataError(
                f"--positive: {label} has the values {found[0]!r} and {found[1]!r}, "
                f"not {positive!r}"
            )
        negative = next(name for name in found if name != positive)
        class_of = [int(name == positive) for name in self.numbers]
        return (negative, positive), np.array((*class_of, 0, 0)[:CLASSES], np.int32)


def ordered(
    by_label: npt.NDArray[np.float64], class_of: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Reorder the first axis from labels in order of appearance to classes."""
    found = np.zeros_like(by_label)
    np.add.at(found, class_of, by_label)
    return found


def check_classes(
    rows: Mapping[str, int],
    weights: Mapping[str, npt.NDArray[np.float64]],
    class_names: tuple[str, str],
    *,
    validation: bool,
) -> None:
    """Reject a split in which a share has no rows of a class.

    Raises:
        DataError: there is such a share.
    """
    texts = {"train": "to train on", "held_out": "held out"}
    if validation:
        texts["validation"] = "for early stopping"
    for share, text in texts.items():
        for number, name in enumerate(class_names):
            if weights[share][number] <= 0:
                raise DataError(
                    f"of {rows['read']} rows, the {rows[share]} {text} have none of class "
                    f"{name!r}; more rows are needed, or another --seed or --held-out"
                )
