"""The label's two values and their classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from training.data.prepare import PreparedBatch
from training.errors import DataError
from training.features.numeric import CLASSES
from training.workers.collectives import Workers

# Values that usually mean class 1.
POSITIVES = ("1", "true", "yes", "y", "t", "positive", "benign")


class Labels:
    """Assigns codes to the label's values in order of appearance."""

    def __init__(self, name: str, positive: str | None) -> None:
        """Take the column's name and the value of class 1, if given."""
        self.name, self.positive = name, positive
        self.codes: dict[str, int] = {}

    def encode(self, prepared: PreparedBatch) -> npt.NDArray[np.int32]:
        """Return the code of each row's label.

        Raises:
            DataError: there is a third value.
        """
        for batch_code, value in enumerate(prepared.label.values):
            if len(self.codes) == CLASSES and value not in self.codes:
                row = int((prepared.label.codes == batch_code).argmax())
                previous = " and ".join(repr(name) for name in self.codes)
                raise DataError(
                    f"{prepared.batch.location(row)}, column {self.name!r}: expected a label "
                    f"with two values, got {value!r} after {previous}"
                )
            self.codes.setdefault(value, len(self.codes))
        codes = np.array([self.codes[value] for value in prepared.label.values], np.int32)
        return codes[prepared.label.codes]

    def assign_classes(self, workers: Workers) -> tuple[tuple[str, str], npt.NDArray[np.int32]]:
        """Return the names of classes 0 and 1, and the class of each label code.

        Raises:
            DataError: the label does not have two values, or `positive` is neither of them.
        """
        values = sorted({value for own in workers.gather(list(self.codes)) for value in own})
        label = f"column {self.name!r}"
        if len(values) != CLASSES:
            listing = ", ".join(repr(value) for value in values[:5]) or "none"
            raise DataError(f"{label}: expected a label with two values, got {listing}")
        positive = None if self.positive is None else self.positive.strip()
        if positive is None:
            candidates = [value for value in values if value.lower() in POSITIVES]
            positive = candidates[0] if len(candidates) == 1 else values[1]
        elif positive not in values:
            raise DataError(
                f"--positive: {label} has the values {values[0]!r} and {values[1]!r}, "
                f"not {positive!r}"
            )
        negative = next(value for value in values if value != positive)
        class_of = [int(value == positive) for value in self.codes]
        return (negative, positive), np.array((*class_of, 0, 0)[:CLASSES], np.int32)


def order_by_class(
    by_code: npt.NDArray[np.float64], class_of: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Reorder the first axis from label codes to classes."""
    by_class = np.zeros_like(by_code)
    np.add.at(by_class, class_of, by_code)
    return by_class


def check_classes(
    rows: Mapping[str, int],
    weights: Mapping[str, npt.NDArray[np.float64]],
    class_names: tuple[str, str],
    *,
    validation: bool,
) -> None:
    """Check that each subset has rows of both classes.

    Raises:
        DataError: a subset has no rows of a class.
    """
    terms = {"train": "training", "held_out": "held-out"}
    if validation:
        terms["validation"] = "validation"
    for subset, term in terms.items():
        for index, name in enumerate(class_names):
            if weights[subset][index] <= 0:
                raise DataError(
                    f"no {term} row has class {name!r} ({term} rows: {rows[subset]} of "
                    f"{rows['read']}); add rows, or change --seed or --held-out"
                )
