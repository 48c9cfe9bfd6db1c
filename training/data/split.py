"""Which rows are set aside: a hash of a row decides, not its place.

So the same rows are held out if a table comes in another order, or has grown, and it can be told of
any row whether another version was trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Split:
    """How rows are set aside.

    Attributes:
        held_out: the share that the result is evaluated on.
        validation: of the others, the share that tells when to stop early.
        seed: another seed sets aside other rows.
    """

    held_out: float
    validation: float
    seed: int

    def uniform(self, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """Return a number between 0 and 1 for each row's key; it decides where the row goes."""
        mixed = _mix(key ^ _mix(np.array([self.seed + GOLDEN], np.uint64)))
        return np.asarray(mixed >> np.uint64(11), np.float64) / 2.0**53


def row_keys(frame: pl.DataFrame) -> npt.NDArray[np.uint64]:
    """Return a hash of each row of a part, `[rows]`; rows that are alike get different ones."""
    hashes = frame.select(sorted(frame.columns)).hash_rows()
    keys = hashes.to_numpy().astype(np.uint64)
    if hashes.n_unique() < len(hashes):
        order = pl.int_range(pl.len()).over(hashes.name or "hash")
        nth = hashes.alias("hash").to_frame().select(order.alias("nth"))["nth"].to_numpy()
        keys ^= _mix(nth.astype(np.uint64) * np.uint64(GOLDEN))  # that of the first one stays
    return keys


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): each bit depends on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
