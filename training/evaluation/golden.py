"""Golden rows: rows with the probabilities that training computed, for checking a server.

The signature `describe` returns them as JSON:

    {"format": 1, "rows": {"column": [values as in a request to /predict]}, "probability": [...]}

The cells of a golden row come from at least two held-out rows, so it is no whole record.
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


def golden_rows(table: Table, theta: Floats) -> str:
    """Return golden rows as JSON, fewer for very many columns.

    Return "" if they would be whole records: with one column, or fewer than two held-out rows.
    """
    sample = table.held_out.sample(SAMPLE_ROWS)
    if min(len(sample), len(table.columns)) < 2:
        return ""
    rows = _mix_cells(sample, max(1, min(MAX_ROWS, MAX_VALUES // len(table.columns))))
    cells = parsed_cells(table, rows)
    document = {
        "format": 1,
        "rows": {column.name: column.json_values(cells[column.name]) for column in table.columns},
        "probability": predictions(table, rows, theta).tolist(),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _mix_cells(rows: Rows, count: int) -> Rows:
    """Return `count` rows, each mixed from the cells of several rows."""
    random = np.random.default_rng(0)
    groups: list[npt.NDArray[Any]] = [rows.numbers, rows.wide, rows.codes]
    ends = np.cumsum([values.shape[1] for values in groups])
    indices = np.stack([np.resize(random.permutation(len(rows)), ends[-1]) for _ in range(count)])
    numbers, wide, codes = (
        np.take_along_axis(values, chosen, axis=0)
        for values, chosen in zip(groups, np.split(indices, ends[:-1], axis=1), strict=True)
    )
    records = rows.take(np.arange(count) % len(rows))
    return Rows(numbers, wide, codes, records.label, records.weight, records.key)
