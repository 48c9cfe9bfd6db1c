"""The kinds of columns that a model describes, one class each.

A kind is one module and one line in `COLUMN_TYPES`.
"""

from __future__ import annotations

from typing import Any

from client.serving.columns.base import NEVER_MISSING, Column
from client.serving.columns.boolean import BooleanColumn
from client.serving.columns.categorical import CategoricalColumn
from client.serving.columns.date import DateColumn
from client.serving.columns.numeric import NumericColumn

__all__ = ["COLUMN_TYPES", "NEVER_MISSING", "Column", "make_column"]

COLUMN_TYPES: dict[str, type[Column]] = {
    column_type.kind: column_type
    for column_type in (NumericColumn, CategoricalColumn, BooleanColumn, DateColumn)
}


def make_column(kind: str, *args: Any, **kwargs: Any) -> Column:
    """Return a column of a kind; unknown kinds get a plain `Column`."""
    return COLUMN_TYPES.get(kind, Column)(*args, **kwargs)
