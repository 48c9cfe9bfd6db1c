"""Arrays of numbers to the dtypes that a model takes, where nothing that matters is lost."""

from __future__ import annotations

import numpy as np

from client.codecs.tables.layout import Place, TableLayout
from client.serving.tensors import DTYPES, Array


def cast(array: Array, dtype: int) -> Array | None:
    """Return an array's values as a dtype of the model's.

    Numbers become floats of any width, but not infinite; integers become integers that hold them.

    Args:
        array: of numbers or booleans.
        dtype: a `tensorflow.DataType`.

    Returns:
        None if a value does not fit.
    """
    wanted = DTYPES[dtype]
    if array.dtype == wanted:
        return array
    if wanted.kind == "f" and array.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            result = array.astype(wanted)
        grew = wanted.itemsize >= array.itemsize and array.dtype.kind == "f"
        return result if grew or not (np.isinf(result) & np.isfinite(array)).any() else None
    if wanted.kind in "iu" and array.dtype.kind in "iu":
        limits = np.iinfo(wanted)
        least, most = int(array.min(initial=0)), int(array.max(initial=0))
        return array.astype(wanted) if limits.min <= least and most <= limits.max else None
    return None


def check_finite(matrix: Array, layout: TableLayout, place: Place) -> None:
    """Refuse infinities, and NaN where the model takes no missing value.

    Args:
        matrix: `[rows, columns]` in the layout's order.
        layout: of the table.
        place: returns where a row stands.

    Raises:
        ClientError: the matrix has such a number.
    """
    if matrix.dtype.kind != "f" or np.isfinite(matrix).all():
        return
    for index, column in enumerate(layout.columns):
        column.check_finite(matrix[:, index], place)
