"""Arrow schemas: the columns of a stream, limited to types that model inputs can have.

Field and type numbers are those of Arrow's Schema.fbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from client.codecs.tables.arrow.flatbuffers import MalformedError, Table
from client.errors import ClientError
from client.serving.columns.base import trim_cell

# A column takes few bytes in a schema, but time to parse.
MAX_COLUMNS = 10_000

NULL, NUMBERS, BOOLEANS, TEXTS, VIEWS, LISTS = range(6)


class ArrowType(IntEnum):
    """Members of the union `Type`."""

    NULL = 1
    INT = 2
    FLOATING_POINT = 3
    BINARY = 4
    UTF8 = 5
    BOOL = 6
    DECIMAL = 7
    DATE = 8
    TIME = 9
    TIMESTAMP = 10
    INTERVAL = 11
    LIST = 12
    STRUCT = 13
    UNION = 14
    FIXED_SIZE_BINARY = 15
    FIXED_SIZE_LIST = 16
    MAP = 17
    DURATION = 18
    LARGE_BINARY = 19
    LARGE_UTF8 = 20
    LARGE_LIST = 21
    RUN_END_ENCODED = 22
    BINARY_VIEW = 23
    UTF8_VIEW = 24
    LIST_VIEW = 25
    LARGE_LIST_VIEW = 26


_FLOATS = ("<f2", "<f4", "<f8")
_INT32 = np.dtype("<i4")
_INT64 = np.dtype("<i8")
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Field:
    """A column.

    Attributes:
        name: its name.
        kind: the layout of its values: `NULL`, `NUMBERS`, `BOOLEANS`, `TEXTS`, `VIEWS` or `LISTS`.
        dtype: dtype of numbers, or of the offsets of strings.
        values: for lists, the field of their elements.
        width: for lists, their length.
        dictionary: id of the dictionary that the numbers index; None without one.
        words: the field of the dictionary's values.
        per_day: for dates and timestamps, units per day; 0 for other numbers.
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
        ClientError: the stream is big-endian, has too many columns or an unsupported type.
        MalformedError: the schema is malformed.
    """
    if schema.number(0, "<h") != 0:
        raise ClientError("the Arrow stream is big-endian; write it little-endian")
    count = schema.length(1)
    if count > MAX_COLUMNS:
        raise ClientError(f"expected at most {MAX_COLUMNS} columns, got {count}")
    return [_field(f, trim_cell(f.text(0)), is_inner=False) for f in schema.tables(1)]


def _field(field: Table, name: str, *, is_inner: bool) -> Field:
    plain = _plain(field, name)
    if field.has(4) and not is_inner:
        encoding = field.table(4)
        if plain is None or plain.kind not in (TEXTS, VIEWS):
            raise ClientError(f'column "{name[:100]}": expected a dictionary of strings')
        keys = _integer_dtype(encoding.table(1)) if encoding.has(1) else _INT32
        number = encoding.number(0, "<q")
        return Field(name, NUMBERS, keys, dictionary=number, words=plain)
    if plain is not None:
        return plain
    kind = field.number(2, "<B")
    if kind == ArrowType.FIXED_SIZE_LIST and not is_inner:
        width = field.table(3).number(0, "<i")
        children = list(field.tables(5)) if field.length(5) == 1 else []
        if width > 0 and children and not children[0].has(4):
            inner = _field(children[0], name, is_inner=True)
            if inner.kind != NULL:
                return Field(name, LISTS, values=inner, width=width)
    raise ClientError(
        f'column "{name[:100]}": expected numbers, dates, booleans or strings, '
        f"got Arrow's type {_type_name(kind)}"
    )


def _plain(field: Table, name: str) -> Field | None:
    """Return a column of single values; None if it has another type."""
    kind = field.number(2, "<B")
    if kind == ArrowType.NULL:
        return Field(name, NULL)
    if kind == ArrowType.INT:
        return Field(name, NUMBERS, _integer_dtype(field.table(3)))
    if kind == ArrowType.FLOATING_POINT:
        precision = field.table(3).number(0, "<h")
        if not 0 <= precision < len(_FLOATS):
            raise MalformedError
        return Field(name, NUMBERS, np.dtype(_FLOATS[precision]))
    if kind == ArrowType.BOOL:
        return Field(name, BOOLEANS)
    if kind == ArrowType.DATE:
        # The unit defaults to milliseconds.
        in_days = field.table(3).has(0) and field.table(3).number(0, "<h") == 0
        per_day = 1 if in_days else DAY_SECONDS * 1000
        return Field(name, NUMBERS, _INT32 if in_days else _INT64, per_day=per_day)
    if kind == ArrowType.TIMESTAMP:
        unit = field.table(3).number(0, "<h")
        if not 0 <= unit <= 3:
            raise MalformedError
        return Field(name, NUMBERS, _INT64, per_day=DAY_SECONDS * 1000**unit)
    if kind in (ArrowType.BINARY, ArrowType.UTF8):
        return Field(name, TEXTS, _INT32)
    if kind in (ArrowType.LARGE_BINARY, ArrowType.LARGE_UTF8):
        return Field(name, TEXTS, _INT64)
    return Field(name, VIEWS) if kind in (ArrowType.BINARY_VIEW, ArrowType.UTF8_VIEW) else None


def _type_name(kind: int) -> str:
    return ArrowType(kind).name.lower() if kind in list(ArrowType) else str(kind)


def _integer_dtype(table: Table) -> np.dtype[np.generic]:
    bits = table.number(0, "<i")
    if bits not in (8, 16, 32, 64):
        raise MalformedError
    return np.dtype(f"<{'i' if table.number(1, '<B') else 'u'}{bits // 8}")
