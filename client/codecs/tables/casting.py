"""Casts of numeric arrays to a model's dtypes, without overflow."""

from __future__ import annotations

import numpy as np

from client.codecs.tables.layout import RowLocator, TableLayout
from client.serving.tensors import DTYPES, Array


def cast(array: Array, dtype: int) -> Array | None:
    """Cast an array to a model's dtype.

    Numbers are cast to floats of any width unless they overflow, and integers to integers if they
    fit.

    Args:
        array: numbers or booleans.
        dtype: a `tensorflow.DataType`.

    Returns:
        The array; None if a value does not fit.
    """
    target = DTYPES[dtype]
    if array.dtype == target:
        return array
    if target.kind == "f" and array.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            result = array.astype(target)
        is_widened = target.itemsize >= array.itemsize and array.dtype.kind == "f"
        return result if is_widened or not (np.isinf(result) & np.isfinite(array)).any() else None
    if target.kind in "iu" and array.dtype.kind in "iu":
        limits = np.iinfo(target)
        smallest, largest = int(array.min(initial=0)), int(array.max(initial=0))
        return array.astype(target) if limits.min <= smallest and largest <= limits.max else None
    return None


def check_finite(matrix: Array, layout: TableLayout, locate: RowLocator) -> None:
    """Reject infinities, and NaN where the model takes no missing values.

    Args:
        matrix: `[rows, columns]` in the layout's order.
        layout: the table's layout.
        locate: returns the position of a row, for messages.

    Raises:
        ClientError: the matrix holds such a number.
    """
    if matrix.dtype.kind != "f" or np.isfinite(matrix).all():
        return
    for index, column in enumerate(layout.columns):
        column.check_finite(matrix[:, index], locate)
