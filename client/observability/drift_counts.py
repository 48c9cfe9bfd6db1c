"""Counts of the rows in requests, per bin of the reference in a model's description.

Rows are buffered, then counted in blocks of a few hundred, numbers with numpy. The counts go to
Prometheus periodically, since incrementing thousands of shared counters per call is too slow.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from prometheus_client import Counter

from client.codecs.batches import Call, row_count
from client.serving.columns import Column
from client.serving.columns.base import MISSING_INTEGER
from client.serving.schema import DESCRIBE, EXPLAIN, Schema
from client.serving.tensors import Array

log = logging.getLogger(__name__)

PROBABILITY = "probability"
# Name of the model's own probability among the columns.
PROBABILITY_COLUMN = ""
MISSING, OTHER = "missing", "other"
MAX_COLUMNS, MAX_BINS = 200, 12
# Rows are counted once this many are buffered, and numbers in blocks of as many.
BLOCK_ROWS = 512
NUMERIC_KINDS = ("numeric", "date", "")
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)


@dataclass(frozen=True)
class BinnedColumn:
    """A column of the reference.

    Attributes:
        name: the column's name; empty for the model's own probability.
        kind: numeric, date, categorical or boolean; empty for the probability.
        edges: upper ends of all bins but the last; empty for categories and booleans.
        values: the values with a bin of their own; empty for numbers and dates.
        shares: the share of the training rows in each bin, then missing and other.
    """

    name: str
    kind: str
    edges: tuple[float, ...]
    values: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def bins(self) -> list[str]:
        """Names of the bins."""
        return [*map(str, range(len(self.shares) - 2)), MISSING, OTHER]


@dataclass(frozen=True)
class Reference:
    """The distribution of the training rows.

    Attributes:
        rows: number of training rows.
        columns: the model's own probability, and the columns of the table.
    """

    rows: int
    columns: tuple[BinnedColumn, ...]

    @classmethod
    def from_json(cls, text: str, columns: Mapping[str, Column]) -> Reference:
        """Read the output `reference` of `describe`.

        Raises:
            KeyError, TypeError, ValueError: the text is not a valid reference.
        """
        document = json.loads(text)
        if document["format"] != 1:
            raise ValueError(f"format: expected 1, got {document['format']}")
        constants = {"name": PROBABILITY_COLUMN, "kind": "", "missing": 0.0, "other": 0.0}
        binned = []
        for entry in [{**document["probability"], **constants}, *document["columns"][:MAX_COLUMNS]]:
            column = columns.get(entry["name"])
            vocabulary = () if column is None else column.vocabulary
            is_numeric = entry["kind"] in NUMERIC_KINDS
            edges = tuple(map(float, entry["edges"])) if is_numeric else ()
            values = () if is_numeric else tuple(entry.get("values", vocabulary))
            shares = (*entry["shares"], entry["missing"], entry["other"])
            if len(shares) != 2 + (len(edges) + 1 if is_numeric else len(values)):
                raise ValueError(f'column "{entry["name"]}": shares do not fit the bins')
            if len(shares) <= MAX_BINS:
                binned.append(BinnedColumn(entry["name"], entry["kind"], edges, values, shares))
            elif not binned:  # the probability, which cannot be left out
                limit = MAX_BINS - 2
                raise ValueError(
                    f"probability: expected at most {limit} bins, got {len(edges) + 1}"
                )
        return cls(int(document["rows"]), tuple(binned))


def load_reference(schema: Schema) -> Reference | None:
    """Return the reference of a version; None if it is missing or cannot be read."""
    derived = schema.derived
    if Reference not in derived:
        derived[Reference] = _read_reference(schema)
    reference: Reference | None = derived[Reference]
    return reference


def _read_reference(schema: Schema) -> Reference | None:
    description = schema.description
    if description is None or description.reference is None:
        return None
    try:
        columns = {column.name: column for column in description.columns}
        return Reference.from_json(description.reference, columns)
    except (KeyError, TypeError, ValueError) as error:
        log.warning(
            "model %s, version %d: drift is not counted because the reference cannot be read: %r",
            *(schema.model, schema.version, error),
        )
        return None


class DriftCounts:
    """Counts rows for one application; bound to one thread."""

    def __init__(self, counter: Counter) -> None:
        """Create empty counts.

        Args:
            counter: takes the counts, by model, version, column and bin.
        """
        self._counter = counter
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def add(self, schema: Schema, call: Call, outputs: Mapping[str, Array]) -> None:
        """Count the rows of an answered call."""
        reference = load_reference(schema)
        if reference is None or call.signature_name in (EXPLAIN, DESCRIBE):
            return
        key = (schema.model, schema.version)
        tally = self._tallies.get(key)
        if tally is None or tally.schema is not schema:
            if tally is not None:
                tally.publish()
            tally = self._tallies[key] = _Tally(schema, reference, self._counter)
        tally.add(call, outputs)

    def publish(self) -> None:
        """Add the counts since the last publication to the counter."""
        for tally in self._tallies.values():
            tally.publish()


class _Tally:
    """The unpublished counts of one version."""

    def __init__(self, schema: Schema, reference: Reference, counter: Counter) -> None:
        self.schema = schema
        self._columns = reference.columns
        self._rows = 0
        self._pending: list[tuple[Call, Mapping[str, Array]]] = []
        self._input_binners: dict[str, list[_NumberBinner | _CategoryBinner]] = {}
        self._probability_binner = _NumberBinner([(0, self._columns[0])], PROBABILITY)
        width = max(len(column.shares) for column in self._columns)
        self._counts = np.zeros((len(self._columns), width), np.int64)
        self._counters = [
            [
                counter.labels(schema.model, schema.version, column.name, name)
                for name in column.bins
            ]
            for column in self._columns
        ]

    def add(self, call: Call, outputs: Mapping[str, Array]) -> None:
        self._pending.append((call, outputs))
        self._rows += row_count(call.inputs)
        if self._rows >= BLOCK_ROWS:
            self._count()

    def publish(self) -> None:
        self._count()
        if not self._counts.any():
            return
        for index, bin_index in zip(*np.nonzero(self._counts), strict=True):
            self._counters[index][bin_index].inc(int(self._counts[index, bin_index]))
        self._counts[:] = 0

    def _count(self) -> None:
        pending, self._pending, self._rows = self._pending, [], 0
        for name, group in groupby(pending, key=lambda item: item[0].signature_name):
            calls = list(group)
            for binner in self._binners(name):
                binner.count([call.inputs for call, _ in calls], self._counts)
            self._probability_binner.count([outputs for _, outputs in calls], self._counts)

    def _binners(self, signature_name: str) -> list[_NumberBinner | _CategoryBinner]:
        """Return the binners of a signature's inputs."""
        binners = self._input_binners.get(signature_name)
        if binners is None:
            binners = self._input_binners[signature_name] = []
            indexed = {column.name: (i, column) for i, column in enumerate(self._columns)}
            columns_by_input = self.schema.input_columns.get(signature_name, {})
            for name, columns in columns_by_input.items():
                binned = [indexed.get(column.name) for column in columns]
                if len(columns) == 1 and binned[0] is not None and binned[0][1].values:
                    binners.append(_CategoryBinner(*binned[0], name))
                elif any(item is not None and item[1].kind in NUMERIC_KINDS for item in binned):
                    binners.append(_NumberBinner(binned, name))
        return binners


class _NumberBinner:
    """Bins numeric columns that are side by side in one array."""

    def __init__(self, columns: Sequence[tuple[int, BinnedColumn] | None], name: str) -> None:
        """Prepare the bins.

        Args:
            columns: index in the reference and bins of each column of the array; None for columns
                that are not counted.
            name: the array's name.
        """
        numeric = [
            (i, *item)
            for i, item in enumerate(columns)
            if item is not None and item[1].kind in NUMERIC_KINDS
        ]
        self._name = name
        self._width = len(columns)
        self._array_indexes = [i for i, _, _ in numeric]
        self._indexes = np.array([index for _, index, _ in numeric])
        self._missing = np.array([len(column.edges) + 1 for _, _, column in numeric])
        # No value is above infinity, so it pads the edges of columns with fewer bins.
        max_edges = max(len(column.edges) for _, _, column in numeric)
        self._edges = np.full((len(numeric), max_edges), np.inf)
        for row, (_, _, column) in enumerate(numeric):
            self._edges[row, : len(column.edges)] = column.edges

    def count(self, calls: Sequence[Mapping[str, Array]], counts: Array) -> None:
        """Add the values of some calls to the counts, by column and bin."""
        arrays = [call[self._name].reshape(-1, self._width) for call in calls if self._name in call]
        if not arrays:
            return
        values = np.concatenate(arrays).T[self._array_indexes]
        is_float = values.dtype.kind == "f"
        # A value equal to an edge, in the precision of the input, is in the bin below.
        edges = self._edges.astype(values.dtype) if is_float else self._edges
        for start in range(0, values.shape[1], BLOCK_ROWS):
            block = values[:, start : start + BLOCK_ROWS]
            missing = np.isnan(block) if is_float else block == MISSING_INTEGER
            missing_counts = missing.sum(axis=1)
            above = (block[:, None, :] > edges[:, :, None]).sum(axis=2)
            # Padded with the rows above minus and plus infinity; differences are the bin counts.
            padded = np.zeros((len(above), above.shape[1] + 2), np.int64)
            padded[:, 0] = block.shape[1] - missing_counts
            padded[:, 1:-1] = above
            counts[self._indexes, : above.shape[1] + 1] += padded[:, :-1] - padded[:, 1:]
            counts[self._indexes, self._missing] += missing_counts


class _CategoryBinner:
    """Bins a column of categories, one value per row."""

    def __init__(self, index: int, column: BinnedColumn, name: str) -> None:
        self._index = index
        self._name = name
        self._other = len(column.values) + 1
        missing = len(column.values)
        self._bins: dict[Any, int] = {b"": missing, MISSING_INTEGER: missing}
        for bin_index, value in enumerate(column.values):
            self._bins[value.encode()] = bin_index
            if column.kind == "boolean":
                self._bins[value == "true"] = bin_index
            elif _INTEGER.fullmatch(value):
                self._bins[int(value)] = bin_index
        if column.kind == "boolean":
            # Missing booleans; see MissingBoolean.
            self._bins |= {-1: missing, -2: missing}

    def count(self, calls: Sequence[Mapping[str, Array]], counts: Array) -> None:
        """Add the values of some calls to the counts."""
        value_counts: Counts[Any] = Counts()
        for call in calls:
            value_counts.update(call[self._name].reshape(-1).tolist())
        for value, count in value_counts.items():
            counts[self._index, self._bins.get(value, self._other)] += count
