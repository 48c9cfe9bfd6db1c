"""The head of a CSV file: its separator and the names of its columns."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from training.data.reading.formats import BYTE_ORDER_MARK
from training.data.reading.quotes import QuoteError, extract_records
from training.errors import DataError
from training.features.cells import BLANKS

if TYPE_CHECKING:
    import _csv

SEPARATORS = (b",", b";", b"\t", b"|")
# Spreadsheets write and read a first line such as `sep=;`.
SEPARATOR_LINE = re.compile(rb'"?sep=([\t !#-~])"?[ \t,;]*\r?\n', re.IGNORECASE)
# pandas' name for a first column without a name, usually the index.
UNNAMED = "Unnamed: 0"
INDEX_NAME = re.compile(r"Unnamed: 0(\.\d+)?")
RECORDS_TO_COMPARE = 50
QUOTED = re.compile(rb'"[^"]*"')
SAVE_AS_UTF_8 = "save the file as UTF-8 (in a spreadsheet: Save As, CSV UTF-8)"


@dataclass(frozen=True)
class Dialect:
    """The header's position and the separator.

    Attributes:
        start: offset of the header.
        line: line number of the header.
        separator: the field separator, one byte.
    """

    start: int
    line: int
    separator: bytes


def detect_dialect(head: bytes, is_complete: bool) -> Dialect:
    """Return a file's dialect.

    Args:
        head: the first lines; the last may be incomplete.
        is_complete: whether `head` is the whole file.
    """
    start = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
    match = SEPARATOR_LINE.match(head, start)
    if match:
        return Dialect(match.end(), 2, match[1])
    return Dialect(start, 1, _guess_separator(head[start:], is_complete))


def read_header(
    name: str, line: int, records: bytes, separator: bytes
) -> tuple[tuple[str, ...], int]:
    """Return the names of the columns and the offset of the first row.

    Args:
        name: the file's name, for errors.
        line: line number of the header.
        records: RFC 4180, from the header on.
        separator: the field separator.

    Raises:
        DataError: the first record is not a header.
    """
    reader = _reader(records.decode(errors="replace"), separator.decode())
    try:
        fields: list[str] = next(reader, [])
    except csv.Error as error:
        expected = "lines that end in LF or CRLF"
        if "field limit" in str(error):
            expected = f"column names of at most {csv.field_size_limit()} characters"
        raise DataError(f"{name} line {line}: expected {expected}") from error
    end = 0
    for _ in range(reader.line_num):
        end = records.find(b"\n", end) + 1 or len(records)
    try:
        records[:end].decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} line {line}: expected a header in UTF-8, got the byte "
            f"0x{records[error.start]:02x}; {SAVE_AS_UTF_8}"
        ) from error
    return _columns(name, line, fields), end


def _columns(name: str, line: int, fields: list[str]) -> tuple[str, ...]:
    columns = [field.strip(BLANKS) for field in fields]
    if not any(columns):
        raise DataError(f"{name} line {line}: expected a header with the names of the columns")
    if not columns[0]:
        names = (UNNAMED, *(f"{UNNAMED}.{n}" for n in range(1, len(columns) + 1)))
        columns[0] = next(unnamed for unnamed in names if unnamed not in columns)
    seen: set[str] = set()
    for number, column in enumerate(columns, start=1):
        if not column:
            raise DataError(f"{name} line {line}: column {number} has no name")
        if column in seen:
            raise DataError(f"{name} line {line}: duplicate column {column!r}")
        seen.add(column)
    if all(_is_number(column) for column in columns):
        raise DataError(
            f"{name} line {line}: expected the names of the columns, got numbers; "
            "write a first line with a name for each column"
        )
    return tuple(columns)


def _guess_separator(head: bytes, is_complete: bool) -> bytes:
    """Return the separator that splits each of the first records into the same number of fields.

    If several do, return the one with the most fields; if none does, the most frequent one in the
    header.
    """
    counts = {s: _count_fields(head, s, is_complete) for s in SEPARATORS}
    consistent = {s: c[0] for s, c in counts.items() if c and len(set(c)) == 1 and c[0] > 1}
    if consistent:
        return max(consistent, key=lambda separator: consistent[separator])
    header = QUOTED.sub(b"", head.partition(b"\n")[0])
    return max(SEPARATORS, key=header.count)


def _count_fields(head: bytes, separator: bytes, is_complete: bool) -> list[int]:
    try:
        records, _ = extract_records(head, separator, is_complete)
        reader = _reader(records.decode(errors="replace"), separator.decode())
        return [len(fields) for fields in islice(reader, RECORDS_TO_COMPARE) if fields]
    except (QuoteError, csv.Error):
        return []


def _reader(text: str, separator: str) -> _csv.Reader:
    return csv.reader(io.StringIO(text, newline="\n"), delimiter=separator)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
