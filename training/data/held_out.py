"""Held-out rows as a caller would send them, with what the model should answer."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.table import Table
from training.features.columns import Floats
from training.workers.collectives import Workers

# The standard error of an accuracy over so many rows is about a thousandth.
MAX_EXAMPLES = 200_000


@dataclass(frozen=True)
class Examples:
    """Rows with their classes.

    Attributes:
        frame: the columns as `TrainedModel.inputs` takes them.
        labels: `[rows]`, 0 or 1.
        weights: `[rows]`.
        keys: `[rows]`, the rows' hashes.
    """

    frame: pl.DataFrame
    labels: Floats
    weights: Floats
    keys: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, mask: npt.NDArray[np.bool_]) -> Examples:
        """Return the rows that a mask chooses."""
        return Examples(
            self.frame.filter(mask), self.labels[mask], self.weights[mask], self.keys[mask]
        )


def held_out_examples(table: Table, workers: Workers) -> Examples:
    """Return the rows held out by all workers; of very many, some that are spread over all."""
    spool = table.held_out
    share = MAX_EXAMPLES * spool.rows // max(MAX_EXAMPLES, table.rows["held_out"])
    rows = spool.sample(share)
    numeric = [column.name for column in table.columns if column.kind == "numeric"]
    others = [column.name for column in table.columns if column.kind != "numeric"]
    columns = {name: pl.Series(rows.numbers[:, i]) for i, name in enumerate(numeric)}
    for position, name in enumerate(others):
        values = pl.Series(table.values[position], dtype=pl.String)
        codes = pl.Series(rows.codes[:, position])
        columns[name] = values.gather(codes.set(codes < 0, None))
    frame = pl.DataFrame({column.name: columns[column.name] for column in table.columns})
    return Examples(
        frame=pl.concat([_from_ipc(data) for data in workers.gather_bytes(_as_ipc(frame))]),
        labels=workers.concatenate(table.class_of[rows.label]).astype(np.float64),
        weights=workers.concatenate(rows.weight).astype(np.float64),
        keys=workers.concatenate(rows.key),
    )


def _as_ipc(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_ipc(file)
    return file.getvalue()


def _from_ipc(data: bytes) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(data))
