"""The split: a row's hash decides whether it is held out, not its position.

So the same rows are held out if a table is reordered or has grown, and it is known for any row
whether a version was trained on it. The hash is the project's own, so it does not change with
library versions, and is the same for CSV and Parquet files of the same rows. It is multilinear
(Lemire and Kaser 2014, "Strongly universal string hashing is fast"): Σ factor × cell modulo 2⁶⁴,
where a column's odd factor comes from its name, so that the order of columns does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

ROW_HASH = "multilinear-xxh64/1"  # another number if a row's hash changes
GOLDEN = 0x9E3779B97F4A7C15
MISSING_TEXT = 0x6A09E667F3BCC909
HIGH = np.uint64(32)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Split:
    """The shares of the split.

    Attributes:
        held_out: the share used for evaluation.
        validation: the share of the other rows used for early stopping.
        seed: different seeds hold out different rows.
    """

    held_out: float
    validation: float
    seed: int

    def uniform(self, key: Hashes) -> npt.NDArray[np.float64]:
        """Return a number between 0 and 1 for each key, which decides the row's share."""
        mixed = _mix(key ^ _mix(np.array([self.seed + GOLDEN], np.uint64)))
        return np.asarray(mixed >> np.uint64(11), np.float64) / 2.0**53


def number_hashes(values: npt.NDArray[Any]) -> Hashes:
    """Return a hash of each number, `[rows]`: of its float64 bits, −0 as 0, NaN as one value.

    Fractions are rounded to float32 first, since a file may store them so.
    """
    numbers = values.astype(np.float64)
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):
            rounded = numbers.astype(np.float32)
        numbers = np.where(numbers == np.rint(numbers), numbers, rounded)
    numbers += 0.0  # −0 becomes 0
    if np.isnan(numbers.min(initial=0.0)):
        numbers[np.isnan(numbers)] = np.nan
    bits = numbers.view(np.uint64)
    bits ^= bits >> HIGH  # the low half of a float32's bits is 0
    return bits


def text_hashes(values: Sequence[str]) -> Hashes:
    """Return a hash of each text, and the hash of a missing one at the end."""
    return np.array(
        [*(xxhash.xxh64_intdigest(v.encode()) for v in values), MISSING_TEXT], np.uint64
    )


def row_keys(columns: Iterable[tuple[str, Hashes]]) -> Hashes:
    """Return a hash of each row, `[rows]`; duplicate rows get different ones.

    Args:
        columns: each column's name, and the hashes of its cells.
    """
    total: Hashes | None = None
    for name, hashes in columns:
        hashes = hashes * np.uint64(xxhash.xxh64_intdigest(name.encode()) | 1)
        total = hashes if total is None else np.add(total, hashes, out=total)
    assert total is not None
    keys = _mix(total)
    series = pl.Series("key", keys)
    if series.n_unique() < len(series):
        order = pl.int_range(pl.len()).over("key")
        nth = series.to_frame().select(order.alias("nth"))["nth"].to_numpy()
        keys ^= _mix(nth.astype(np.uint64) * np.uint64(GOLDEN))  # that of the first one stays
    return keys


def _mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): each bit depends on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
