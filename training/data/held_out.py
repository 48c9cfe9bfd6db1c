"""Held-out rows as a caller would send them, with training's own predictions."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.data.row_store import Rows
from training.data.table import Table
from training.features.columns import Floats
from training.workers.collectives import Workers

# The standard error of an accuracy over this many rows is about a thousandth.
MAX_EXAMPLES = 200_000
MAX_CHECKED = 10_000
VALUES_AT_A_TIME = 1 << 22
# Half of float32's spacing at 1, the largest relative error of one operation.
ROUNDING = 2.0**-24
# Covers the rounding of the served sigmoid, and of a threshold between probabilities close to 1.
MIN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Expected:
    """Predictions of the first rows, computed by training in float64, to check a version against.

    Each worker predicts an equal number of them, or all that it has if those are fewer.

    Attributes:
        probabilities: `[rows]`, of class 1.
        contributions: `[rows, columns]`, each column's share of the logit.
        tolerances: `[rows]`, the allowed difference of a probability computed in float32.
    """

    probabilities: Floats
    contributions: Floats
    tolerances: Floats


@dataclass(frozen=True)
class Examples:
    """Rows with their classes.

    Attributes:
        frame: the columns as `TrainedModel.inputs` takes them.
        labels: `[rows]`, 0 or 1.
        weights: `[rows]`.
        keys: `[rows]`, the rows' hashes.
        probabilities: `[rows]`, of class 1, as training computes them.
        expected: training's predictions of the first rows.
    """

    frame: pl.DataFrame
    labels: Floats
    weights: Floats
    keys: npt.NDArray[np.uint64]
    probabilities: Floats
    expected: Expected

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, mask: npt.NDArray[np.bool_]) -> Examples:
        """Return the rows selected by a mask."""
        first = mask[: len(self.expected.probabilities)]
        return Examples(
            self.frame.filter(mask),
            self.labels[mask],
            self.weights[mask],
            self.keys[mask],
            self.probabilities[mask],
            Expected(
                self.expected.probabilities[first],
                self.expected.contributions[first],
                self.expected.tolerances[first],
            ),
        )


def held_out_examples(table: Table, workers: Workers, theta: Floats) -> Examples:
    """Return the rows held out by all workers, or an even sample of very many."""
    spool = table.held_out
    share = max(1, MAX_EXAMPLES * spool.rows // max(MAX_EXAMPLES, table.rows["held_out"]))
    rows = spool.sample(share)
    checked = MAX_CHECKED // workers.count
    expected = expect(table, rows.take(slice(0, checked)), theta)
    rest = predictions(table, rows.take(slice(checked, None)), theta)
    probabilities = np.concatenate([expected.probabilities, rest])
    frame = _as_ipc(parsed_cells(table, rows))
    # The checked rows of all workers come first.
    order = np.argsort(workers.concatenate(np.arange(len(rows)) >= checked), kind="stable")
    return Examples(
        frame=pl.concat([_from_ipc(data) for data in workers.gather_bytes(frame)])[order],
        labels=workers.concatenate(table.class_of[rows.label])[order].astype(np.float64),
        weights=workers.concatenate(rows.weight)[order].astype(np.float64),
        keys=workers.concatenate(rows.key)[order],
        probabilities=workers.concatenate(probabilities)[order],
        expected=Expected(
            workers.concatenate(expected.probabilities),
            workers.concatenate(expected.contributions),
            workers.concatenate(expected.tolerances),
        ),
    )


def expect(table: Table, rows: Rows, theta: Floats) -> Expected:
    """Compute the expected predictions from stored rows, in float64."""
    owners = np.eye(len(table.columns))[table.encoder.owners]
    contributions, tolerances = [], []
    for features in _encoded(table, rows):
        shares = features * theta[:-1]
        contributions.append(shares @ owners)
        # Scaling, multiplying and adding each nonzero term rounds once each; the summation order
        # depends on the processor. The sigmoid's slope is at most 1/4.
        terms = np.count_nonzero(shares, axis=1) + 4
        size = np.abs(shares).sum(axis=1) + abs(theta[-1])
        tolerances.append(MIN_TOLERANCE + terms * ROUNDING * size / 4)
    by_column = np.concatenate(contributions)
    logit = by_column.sum(axis=1) + theta[-1]
    return Expected(sigmoid(logit), by_column, np.concatenate(tolerances))


def predictions(table: Table, rows: Rows, theta: Floats) -> Floats:
    """Return the probability of class 1 of stored rows, in float64."""
    logits = [features @ theta[:-1] + theta[-1] for features in _encoded(table, rows)]
    return sigmoid(np.concatenate(logits))


def sigmoid(logit: Floats) -> Floats:
    """Return 1 / (1 + e⁻ᶻ), without overflow."""
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1, small) / (1 + small))


def _encoded(table: Table, rows: Rows) -> list[Floats]:
    """Return float64 features `[rows, features]` in pieces of bounded size, at least one."""
    step = max(1, VALUES_AT_A_TIME // len(table.encoder.features))
    pieces = []
    for begin in range(0, max(1, len(rows)), step):
        piece = rows.take(slice(begin, begin + step))
        cells = table.cells(piece.numbers, piece.wide, piece.codes)
        pieces.append(table.encoder.encode(cells, tf.float64).numpy())
    return pieces


def parsed_cells(table: Table, rows: Rows) -> pl.DataFrame:
    """Return rows as parsed cells."""
    encoder = table.encoder
    columns = {c.name: pl.Series(rows.numbers[:, i]) for i, c in enumerate(encoder.numbers)}
    columns |= {c.name: pl.Series(rows.wide[:, i]) for i, c in enumerate(encoder.wide)}
    for position, column in enumerate(encoder.coded):
        values = pl.Series(table.values[position], dtype=pl.String)
        codes = pl.Series(rows.codes[:, position])
        columns[column.name] = values.gather(codes.set(codes < 0, None))
    return pl.DataFrame({column.name: columns[column.name] for column in table.columns})


def _as_ipc(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_ipc(file)
    return file.getvalue()


def _from_ipc(data: bytes) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(data))
