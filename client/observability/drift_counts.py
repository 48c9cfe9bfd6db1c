"""Counts of requested rows, per bin of the reference in a model's description.

Rows are buffered, then counted some hundred at a time with one numpy operation. The counts go to
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
OF_MODEL = ""
MISSING, OTHER = "missing", "other"
MAX_COLUMNS, MAX_BINS = 200, 12
# Rows that are counted in one operation.
BLOCK_ROWS = 512
NUMBERS = ("numeric", "date", "")
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)


@dataclass(frozen=True)
class BinnedColumn:
    """A column of the reference.

    Attributes:
        name: the column's name; empty for the model's own probability.
        kind: numeric, date, categorical or boolean; empty for the probability.
        edges: upper ends of all bins but the last; numbers only.
        values: the values with a bin of their own; categories only.
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
            KeyError, TypeError, ValueError: it is not such a reference.
        """
        found = json.loads(text)
        if found["format"] != 1:
            raise ValueError(f"format: expected 1, got {found['format']}")
        probability = found["probability"]
        model = {**probability, "name": OF_MODEL, "kind": "", "missing": 0.0, "other": 0.0}
        binned = []
        for one in [model, *found["columns"][:MAX_COLUMNS]]:
            column = columns.get(one["name"])
            vocabulary = () if column is None else column.vocabulary
            numbers = one["kind"] in NUMBERS
            edges = tuple(map(float, one["edges"])) if numbers else ()
            values = () if numbers else tuple(one.get("values", vocabulary))
            shares = (*one["shares"], one["missing"], one["other"])
            if len(shares) != 2 + (len(edges) + 1 if numbers else len(values)):
                raise ValueError(f'column "{one["name"]}": shares do not fit the bins')
            if len(shares) <= MAX_BINS:
                binned.append(BinnedColumn(one["name"], one["kind"], edges, values, shares))
        return cls(int(found["rows"]), tuple(binned))


def reference_of(schema: Schema) -> Reference | None:
    """Return the reference of a version; None if it is missing or cannot be read."""
    derived = schema.derived
    if Reference not in derived:
        derived[Reference] = _read(schema)
    reference: Reference | None = derived[Reference]
    return reference


def _read(schema: Schema) -> Reference | None:
    description = schema.description
    if description is None or description.reference is None:
        return None
    try:
        columns = {column.name: column for column in description.columns}
        return Reference.from_json(description.reference, columns)
    except (KeyError, TypeError, ValueError) as error:
        log.warning(
            "model %s, version %d: drift is not counted, the reference cannot be read: %r",
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
        reference = reference_of(schema)
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
        self._waiting: list[tuple[Call, Mapping[str, Array]]] = []
        self._signatures: dict[str, list[_Numbers | _Categories]] = {}
        self._model = _Numbers([(0, self._columns[0])], PROBABILITY)
        width = max(len(column.shares) for column in self._columns)
        self._counts = np.zeros((len(self._columns), width), np.int64)
        self._counters = [
            [counter.labels(schema.model, schema.version, column.name, one) for one in column.bins]
            for column in self._columns
        ]

    def add(self, call: Call, outputs: Mapping[str, Array]) -> None:
        self._waiting.append((call, outputs))
        self._rows += row_count(call.inputs)
        if self._rows >= BLOCK_ROWS:
            self._count()

    def publish(self) -> None:
        self._count()
        if not self._counts.any():
            return
        for place, number in zip(*np.nonzero(self._counts), strict=True):
            self._counters[place][number].inc(int(self._counts[place, number]))
        self._counts[:] = 0

    def _count(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        for name, group in groupby(waiting, key=lambda one: one[0].signature_name):
            calls = list(group)
            for check in self._checks(name):
                check.count([call.inputs for call, _ in calls], self._counts)
            self._model.count([outputs for _, outputs in calls], self._counts)

    def _checks(self, signature_name: str) -> list[_Numbers | _Categories]:
        """Return the counters for a signature's inputs."""
        checks = self._signatures.get(signature_name)
        if checks is None:
            checks = self._signatures[signature_name] = []
            places = {column.name: (i, column) for i, column in enumerate(self._columns)}
            described = self.schema.described.get(signature_name, {})
            for name, columns in described.items():
                binned = [places.get(column.name) for column in columns]
                if len(columns) == 1 and binned[0] is not None and binned[0][1].values:
                    checks.append(_Categories(*binned[0], name))
                elif any(one is not None and one[1].kind in NUMBERS for one in binned):
                    checks.append(_Numbers(binned, name))
        return checks


class _Numbers:
    """Numeric columns side by side in one array."""

    def __init__(self, columns: Sequence[tuple[int, BinnedColumn] | None], name: str) -> None:
        """Prepare the bins.

        Args:
            columns: index in the reference and bins of each column of the array; None for columns
                that are not counted.
            name: the array's name.
        """
        found = [
            (i, *one) for i, one in enumerate(columns) if one is not None and one[1].kind in NUMBERS
        ]
        self._name = name
        self._width = len(columns)
        self._take = [i for i, _, _ in found]
        self._places = np.array([place for _, place, _ in found])
        self._missing = np.array([len(column.edges) + 1 for _, _, column in found])
        # No value is above infinity, so it pads the edges of columns with fewer bins.
        most = max(len(column.edges) for _, _, column in found)
        self._edges = np.full((len(found), most), np.inf)
        for row, (_, _, column) in enumerate(found):
            self._edges[row, : len(column.edges)] = column.edges

    def count(self, calls: Sequence[Mapping[str, Array]], counts: Array) -> None:
        """Add the values of some calls to the counts, by column and bin."""
        arrays = [call[self._name].reshape(-1, self._width) for call in calls if self._name in call]
        if not arrays:
            return
        values = np.concatenate(arrays).T[self._take]
        is_float = values.dtype.kind == "f"
        # A value equal to an edge, in the precision of the input, is in the bin below.
        edges = self._edges.astype(values.dtype) if is_float else self._edges
        for start in range(0, values.shape[1], BLOCK_ROWS):
            block = values[:, start : start + BLOCK_ROWS]
            missing = np.isnan(block) if is_float else block == MISSING_INTEGER
            absent = missing.sum(axis=1)
            above = (block[:, None, :] > edges[:, :, None]).sum(axis=2)
            # Rows above each edge, from minus infinity to infinity.
            beyond = np.zeros((len(above), above.shape[1] + 2), np.int64)
            beyond[:, 0] = block.shape[1] - absent
            beyond[:, 1:-1] = above
            counts[self._places, : above.shape[1] + 1] += beyond[:, :-1] - beyond[:, 1:]
            counts[self._places, self._missing] += absent


class _Categories:
    """A column of categories, one value per row."""

    def __init__(self, place: int, column: BinnedColumn, name: str) -> None:
        self._place = place
        self._name = name
        self._other = len(column.values) + 1
        missing = len(column.values)
        self._bins: dict[Any, int] = {b"": missing, MISSING_INTEGER: missing}
        for number, value in enumerate(column.values):
            self._bins[value.encode()] = number
            if column.kind == "boolean":
                self._bins[value == "true"] = number
            elif _INTEGER.fullmatch(value):
                self._bins[int(value)] = number
        if column.kind == "boolean":
            # Missing booleans; see MissingBoolean.
            self._bins |= {-1: missing, -2: missing}

    def count(self, calls: Sequence[Mapping[str, Array]], counts: Array) -> None:
        """Add the values of some calls to the counts."""
        found: Counts[Any] = Counts()
        for call in calls:
            found.update(call[self._name].reshape(-1).tolist())
        for value, count in found.items():
            counts[self._place, self._bins.get(value, self._other)] += count
