"""The columns of an Arrow stream, of the types that can be a model's input.

Numbers of fields and types are those of Schema.fbs in Arrow's format.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.codecs.tables.arrow.flatbuffers import BrokenError, Table
from client.errors import ClientError
from client.serving.columns.base import word_of

# A column takes few bytes in a schema, and time to read.
MAX_COLUMNS = 10_000

NULL, NUMBERS, BOOLEANS, TEXTS, VIEWS, LISTS = range(6)

# Types that are not read.
_NAMES = {
    7: "decimal",
    9: "time",
    11: "interval",
    12: "list",
    13: "struct",
    14: "union",
    15: "fixed_size_binary",
    17: "map",
    18: "duration",
    21: "large_list",
    22: "run_end_encoded",
    25: "list_view",
    26: "large_list_view",
}
_FLOATS = ("<f2", "<f4", "<f8")
_INT32 = np.dtype("<i4")
_INT64 = np.dtype("<i8")
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Field:
    """A column.

    Attributes:
        name: its name.
        kind: `NULL`, `NUMBERS`, `BOOLEANS`, `TEXTS`, `VIEWS` or `LISTS`, which is how its values
            are laid out.
        dtype: of numbers, or of the offsets of texts.
        values: of lists, what they hold.
        width: of lists, how many.
        dictionary: the number of the dictionary to which the numbers are keys; None if to none.
        words: what that dictionary holds.
        per_day: of dates and timestamps, how many units a day has; 0 of other numbers.
    """

    name: str
    kind: int
    dtype: np.dtype[np.generic] = _INT32
    values: Field | None = None
    width: int = 0
    dictionary: int | None = None
    words: Field | None = None
    per_day: int = 0


def read_schema(schema: Table) -> list[Field]:
    """Return the columns of a stream.

    Raises:
        ClientError: there are too many, or one has a type that is not read.
        BrokenError: the schema cannot be read.
    """
    if schema.number(0, "<h") != 0:
        raise ClientError("the Arrow stream is big-endian; write it little-endian")
    count = schema.length(1)
    if count > MAX_COLUMNS:
        raise ClientError(f"expected at most {MAX_COLUMNS} columns, got {count}")
    return [_field(f, word_of(f.text(0)), is_inner=False) for f in schema.tables(1)]


def _field(field: Table, name: str, *, is_inner: bool) -> Field:
    plain = _plain(field, name)
    if field.has(4) and not is_inner:
        encoding = field.table(4)
        if plain is None or plain.kind not in (TEXTS, VIEWS):
            raise ClientError(f'column "{name[:100]}": expected a dictionary of strings')
        keys = _integers(encoding.table(1)) if encoding.has(1) else _INT32
        number = encoding.number(0, "<q")
        return Field(name, NUMBERS, keys, dictionary=number, words=plain)
    if plain is not None:
        return plain
    kind = field.number(2, "<B")
    if kind == 16 and not is_inner:
        width = field.table(3).number(0, "<i")
        children = list(field.tables(5)) if field.length(5) == 1 else []
        if width > 0 and children and not children[0].has(4):
            inner = _field(children[0], name, is_inner=True)
            if inner.kind != NULL:
                return Field(name, LISTS, values=inner, width=width)
    raise ClientError(
        f'column "{name[:100]}": expected numbers, dates, booleans or strings, '
        f"got Arrow's type {_NAMES.get(kind, kind)}"
    )


def _plain(field: Table, name: str) -> Field | None:
    """Return a column of single values; None if it is none."""
    kind = field.number(2, "<B")
    if kind == 1:
        return Field(name, NULL)
    if kind == 2:
        return Field(name, NUMBERS, _integers(field.table(3)))
    if kind == 3:
        precision = field.table(3).number(0, "<h")
        if not 0 <= precision < len(_FLOATS):
            raise BrokenError
        return Field(name, NUMBERS, np.dtype(_FLOATS[precision]))
    if kind == 6:
        return Field(name, BOOLEANS)
    if kind == 8:
        # The unit is milliseconds if it is left out.
        in_days = field.table(3).has(0) and field.table(3).number(0, "<h") == 0
        per_day = 1 if in_days else DAY_SECONDS * 1000
        return Field(name, NUMBERS, _INT32 if in_days else _INT64, per_day=per_day)
    if kind == 10:
        unit = field.table(3).number(0, "<h")
        if not 0 <= unit <= 3:
            raise BrokenError
        return Field(name, NUMBERS, _INT64, per_day=DAY_SECONDS * 1000**unit)
    if kind in (4, 5):
        return Field(name, TEXTS, _INT32)
    if kind in (19, 20):
        return Field(name, TEXTS, np.dtype("<i8"))
    return Field(name, VIEWS) if kind in (23, 24) else None


def _integers(table: Table) -> np.dtype[np.generic]:
    bits = table.number(0, "<i")
    if bits not in (8, 16, 32, 64):
        raise BrokenError
    return np.dtype(f"<{'i' if table.number(1, '<B') else 'u'}{bits // 8}")
