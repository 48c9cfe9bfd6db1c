"""The split: a row's hash, not its position, decides whether it is held out.

A reordered or longer table therefore holds out the same rows, and the row alone shows whether a
version was trained on it. The hash is the project's own: it does not change with library versions,
and is the same for CSV and Parquet files of the same rows. It is multilinear
(Lemire and Kaser 2014, "Strongly universal string hashing is fast"): Σ factor × cell modulo 2⁶⁴,
where a column's odd factor comes from its name, so that the order of columns does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

ROW_HASH = "multilinear-xxh64/1"  # raise the number when a row's hash changes
GOLDEN_RATIO = 0x9E3779B97F4A7C15  # 2⁶⁴ / φ, the increment of splitmix64
MISSING_TEXT = 0x6A09E667F3BCC909
HALF_WORD = np.uint64(32)
ROWS_AT_A_TIME = 16_384
MAX_EXACT_INTEGER = 2**24  # float32 represents every integer up to this one

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Split:
    """The settings of the split.

    Attributes:
        held_out: the fraction of rows used for evaluation.
        validation: the fraction of the other rows used for early stopping.
        seed: different seeds hold out different rows.
    """

    held_out: float
    validation: float
    seed: int

    def uniform(self, key: Hashes) -> npt.NDArray[np.float64]:
        """Return a uniform number in [0, 1) for each key, which decides the row's subset."""
        mixed = _mix(key ^ _mix(np.array([self.seed + GOLDEN_RATIO], np.uint64)))
        return np.asarray(mixed >> np.uint64(11), np.float64) / 2.0**53


def hash_numbers(
    values: npt.NDArray[Any],
    out: npt.NDArray[np.float64] | None = None,
    scratch: Hashes | None = None,
) -> Hashes:
    """Return a hash of each number's float64 bits, `[rows]`; −0 counts as 0, all NaNs as one.

    Fractions are rounded to float32 first, since some files store float32.

    Args:
        values: the numbers, `[rows]`.
        out: buffer `[rows]` for the result; None allocates it.
        scratch: buffer `[rows]` for intermediate results; None allocates it.
    """
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float32)
        if np.abs(values).max(initial=0.0) <= MAX_EXACT_INTEGER:  # False with a NaN
            values = rounded
        else:
            values = np.where(values == np.rint(values), values, rounded)
    numbers = np.add(values, 0.0, out=out, dtype=np.float64)  # −0 becomes 0
    if np.isnan(numbers.min(initial=0.0)):
        numbers[np.isnan(numbers)] = np.nan
    bits: Hashes = numbers.view(np.uint64)
    bits ^= np.right_shift(bits, HALF_WORD, out=scratch)  # a float32 leaves the low 29 bits 0
    return bits


def hash_texts(values: Sequence[str]) -> Hashes:
    """Return a hash of each text, followed by the hash of a missing text."""
    return np.array(
        [*(xxhash.xxh64_intdigest(v.encode()) for v in values), MISSING_TEXT], np.uint64
    )


class RowHasher:
    """Adds up the hashes of rows, a column at a time.

    Hashing in steps whose buffers stay in the CPU cache takes a fifth of the time of hashing whole
    columns at once.
    """

    def __init__(self, rows: int) -> None:
        self._total = np.zeros(rows, np.uint64)
        self._hashes = np.empty(min(rows, ROWS_AT_A_TIME))
        self._scratch = np.empty(min(rows, ROWS_AT_A_TIME), np.uint64)

    def add_numbers(self, name: str, values: npt.NDArray[Any]) -> None:
        """Add a column of numbers `[rows]`."""
        factor = _factor(name)
        for start in range(0, len(values), ROWS_AT_A_TIME):
            step = slice(start, start + ROWS_AT_A_TIME)
            count = len(values[step])
            hashes = hash_numbers(values[step], self._hashes[:count], self._scratch[:count])
            hashes *= factor
            self._total[step] += hashes

    def add_texts(self, name: str, hashes: Hashes) -> None:
        """Add a column of texts by the hash of each cell, `[rows]`."""
        self._total += hashes * _factor(name)

    def keys(self) -> Hashes:
        """Return a hash of each row, `[rows]`; duplicate rows get different hashes."""
        keys = _mix(self._total)
        series = pl.Series("key", keys)
        if series.n_unique() < len(series):
            order = pl.int_range(pl.len()).over("key")
            nth = series.to_frame().select(order.alias("nth"))["nth"].to_numpy()
            # The first of duplicate rows keeps its hash: _mix(0) is 0.
            keys ^= _mix(nth.astype(np.uint64) * np.uint64(GOLDEN_RATIO))
        return keys


def _factor(name: str) -> np.uint64:
    return np.uint64(xxhash.xxh64_intdigest(name.encode()) | 1)


def _mix(values: Hashes) -> Hashes:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood 2014).

    Every output bit depends on every input bit.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
