"""Golden rows: rows with the probabilities that training computed, to check a server with.

They go into the signature `describe`:

    {"format": 1, "rows": {"column": [values as in a request to /predict]}, "probability": [...]}

Neighbouring cells come from different held-out rows, so no golden row is a whole record.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.held_out import parsed_cells, predictions
from training.data.row_store import Rows
from training.data.table import Table
from training.features.columns import Floats

MAX_ROWS = 8
MAX_VALUES = 20_000
SAMPLE_ROWS = 512


def golden(table: Table, theta: Floats) -> str:
    """Return golden rows as JSON, fewer for very many columns.

    Empty if they would be whole records: with one column, or fewer than two held-out rows.
    """
    rows = table.held_out.sample(SAMPLE_ROWS)
    if min(len(rows), len(table.columns)) < 2:
        return ""
    mixed = _mixed(rows, max(1, min(MAX_ROWS, MAX_VALUES // len(table.columns))))
    cells = parsed_cells(table, mixed)
    described = {
        "format": 1,
        "rows": {column.name: column.json_values(cells[column.name]) for column in table.columns},
        "probability": predictions(table, mixed, theta).tolist(),
    }
    return json.dumps(described, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _mixed(rows: Rows, count: int) -> Rows:
    """Return rows whose cells are drawn column by column."""
    random = np.random.default_rng(0)
    groups: list[npt.NDArray[Any]] = [rows.numbers, rows.wide, rows.codes]
    ends = np.cumsum([values.shape[1] for values in groups])
    places = np.stack([np.resize(random.permutation(len(rows)), ends[-1]) for _ in range(count)])
    numbers, wide, codes = (
        np.take_along_axis(values, own, axis=0)
        for values, own in zip(groups, np.split(places, ends[:-1], axis=1), strict=True)
    )
    first = rows.take(np.arange(count) % len(rows))
    return Rows(numbers, wide, codes, first.label, first.weight, first.key)
