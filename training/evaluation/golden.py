"""Golden rows: rows with the probabilities that training computed, to check a server with.

They go into the signature `describe`:

    {"format": 1, "rows": {"column": [values as in a request to /predict]}, "probability": [...]}

Each cell comes from another held-out row, so no row is anybody's.
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
    """Return golden rows as JSON, fewer for very many columns; empty without held-out rows."""
    rows = table.held_out.sample(SAMPLE_ROWS)
    if not len(rows):
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

    def drawn(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        places = random.integers(len(rows), size=(count, values.shape[1]))
        return np.take_along_axis(values, places, axis=0)

    first = rows.take(np.arange(count) % len(rows))
    return Rows(
        drawn(rows.numbers),
        drawn(rows.wide),
        drawn(rows.codes),
        first.label,
        first.weight,
        first.key,
    )
