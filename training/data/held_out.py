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
MAX_CHUNK_VALUES = 1 << 22
# Half of float32's spacing at 1, the largest relative error of one operation.
ROUNDING = 2.0**-24
# Covers the rounding of the served sigmoid, and of a threshold between probabilities close to 1.
MIN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ExpectedPredictions:
    """Predictions of the first rows, computed in float64, for checking a version.

    Each worker contributes equally many of these rows, or all its rows if it has fewer.

    Attributes:
        probabilities: `[rows]`, of class 1.
        contributions: `[rows, columns]`, the sum of each column's terms in the logit.
        tolerances: `[rows]`, the allowed error of a probability computed in float32.
    """

    probabilities: Floats
    contributions: Floats
    tolerances: Floats


@dataclass(frozen=True)
class Examples:
    """Labelled rows with predictions.

    Attributes:
        frame: the columns as `TrainedModel.inputs` takes them.
        labels: `[rows]`, 0 or 1.
        weights: `[rows]`.
        keys: `[rows]`, the rows' hashes.
        probabilities: `[rows]`, of class 1, computed in float64.
        expected: the predictions for checking a version.
    """

    frame: pl.DataFrame
    labels: Floats
    weights: Floats
    keys: npt.NDArray[np.uint64]
    probabilities: Floats
    expected: ExpectedPredictions

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
            ExpectedPredictions(
                self.expected.probabilities[first],
                self.expected.contributions[first],
                self.expected.tolerances[first],
            ),
        )


def held_out_examples(table: Table, workers: Workers, theta: Floats) -> Examples:
    """Return all workers' held-out rows, or an evenly spread sample of about `MAX_EXAMPLES`."""
    spool = table.held_out
    count = max(1, MAX_EXAMPLES * spool.rows // max(MAX_EXAMPLES, table.rows["held_out"]))
    rows = spool.sample(count)
    checked = MAX_CHECKED // workers.count
    expected = _compute_expected(table, rows.take(slice(0, checked)), theta)
    unchecked = predictions(table, rows.take(slice(checked, None)), theta)
    probabilities = np.concatenate([expected.probabilities, unchecked])
    frame = _to_ipc(parsed_cells(table, rows))
    # The checked rows of all workers come first.
    order = np.argsort(workers.concatenate(np.arange(len(rows)) >= checked), kind="stable")
    return Examples(
        frame=pl.concat([_from_ipc(data) for data in workers.gather_bytes(frame)])[order],
        labels=workers.concatenate(table.class_of[rows.label])[order].astype(np.float64),
        weights=workers.concatenate(rows.weight)[order].astype(np.float64),
        keys=workers.concatenate(rows.key)[order],
        probabilities=workers.concatenate(probabilities)[order],
        expected=ExpectedPredictions(
            workers.concatenate(expected.probabilities),
            workers.concatenate(expected.contributions),
            workers.concatenate(expected.tolerances),
        ),
    )


def _compute_expected(table: Table, rows: Rows, theta: Floats) -> ExpectedPredictions:
    """Compute the expected predictions of stored rows, in float64."""
    owners = np.eye(len(table.columns))[table.encoder.owners]
    contributions, tolerances = [], []
    for features in _encode(table, rows):
        terms = features * theta[:-1]
        contributions.append(terms @ owners)
        # Each nonzero term is rounded when it is scaled, multiplied and added; the summation order
        # depends on the processor. The sigmoid's slope is at most 1/4.
        roundings = np.count_nonzero(terms, axis=1) + 4
        magnitude = np.abs(terms).sum(axis=1) + abs(theta[-1])
        tolerances.append(MIN_TOLERANCE + roundings * ROUNDING * magnitude / 4)
    by_column = np.concatenate(contributions)
    logit = by_column.sum(axis=1) + theta[-1]
    return ExpectedPredictions(sigmoid(logit), by_column, np.concatenate(tolerances))


def predictions(table: Table, rows: Rows, theta: Floats) -> Floats:
    """Return the probability of class 1 of stored rows, in float64."""
    logits = [features @ theta[:-1] + theta[-1] for features in _encode(table, rows)]
    return sigmoid(np.concatenate(logits))


def sigmoid(logit: Floats) -> Floats:
    """Return 1 / (1 + e⁻ᶻ), without overflow."""
    exp = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1, exp) / (1 + exp))


def _encode(table: Table, rows: Rows) -> list[Floats]:
    """Return float64 features `[rows, features]` in chunks of bounded size, at least one."""
    step = max(1, MAX_CHUNK_VALUES // len(table.encoder.features))
    chunks = []
    for begin in range(0, max(1, len(rows)), step):
        chunk = rows.take(slice(begin, begin + step))
        cells = table.cells(chunk.numbers, chunk.wide, chunk.codes)
        chunks.append(table.encoder.encode(cells, tf.float64).numpy())
    return chunks


def parsed_cells(table: Table, rows: Rows) -> pl.DataFrame:
    """Return rows as parsed cells."""
    encoder = table.encoder
    columns = {c.name: pl.Series(rows.numbers[:, i]) for i, c in enumerate(encoder.numbers)}
    columns |= {c.name: pl.Series(rows.wide[:, i]) for i, c in enumerate(encoder.wide)}
    for position, column in enumerate(encoder.categories):
        values = pl.Series(table.values[position], dtype=pl.String)
        codes = pl.Series(rows.codes[:, position])
        columns[column.name] = values.gather(codes.set(codes < 0, None))
    return pl.DataFrame({column.name: columns[column.name] for column in table.columns})


def _to_ipc(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_ipc(file)
    return file.getvalue()


def _from_ipc(data: bytes) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(data))
