"""File formats, recognised by their first bytes."""

from __future__ import annotations

import json
import re
from typing import Literal

from training.errors import DataError

Format = Literal["csv", "json lines", "parquet", "arrow"]

HEAD_BYTES = 64 << 10
SUPPORTED = "supported formats: CSV, JSON Lines, Parquet and Arrow IPC"
TO_CSV = "save it as CSV (in a spreadsheet: Save As, CSV UTF-8)"
FROM_PICTURE = "export the table that it shows as CSV"
TO_PARQUET = "convert it to Parquet or CSV"
TO_JSON_LINES = "write one object per line (pandas: to_json(path, orient='records', lines=True))"
# A CSV header could begin with these letters too, but has no NUL bytes.
UNSUPPORTED_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"ORC", "an ORC file", TO_PARQUET),
    (b"FEA1", "a Feather file of version 1", "write it as Feather version 2"),
    (b"PARE", "an encrypted Parquet file", "decrypt it"),
    (b"RDX", "an R data file", "write it as CSV (write.csv)"),
    (b"RDA", "an R data file", "write it as CSV (write.csv)"),
)
UNSUPPORTED: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)", TO_CSV),
    (b"%PDF-", "a PDF document", "export its table as CSV"),
    (b"SQLite format 3\0", "an SQLite database", "export a table as CSV"),
    (b"Obj\x01", "an Avro file", TO_PARQUET),
    (b"\xff\xff\xff\xff", "an Arrow IPC stream", "write it as an Arrow IPC file (Feather)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", TO_PARQUET),
    (b"\x93NUMPY", "a NumPy array", "name its columns and save it as CSV"),
    (b"<stata_dta>", "a Stata file", TO_PARQUET),
    (b"$FL2", "an SPSS file", TO_PARQUET),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", TO_PARQUET),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", "decompress it"),
    (b"\x1f\x9d", "compressed with compress (.Z)", "decompress it"),
    (b"\x89PNG", "a PNG picture", FROM_PICTURE),
    (b"\xff\xd8\xff", "a JPEG picture", FROM_PICTURE),
)
TAR_OFFSET, TAR_MAGIC = 257, b"ustar"
# A pickle begins with its protocol and, from the fourth on, with a frame or a global.
PICKLE = re.compile(rb"\x80[\x02-\x05][\x95c\]}(\x8c]")
HTML = re.compile(rb"<(!doctype|html|head|body|table)\b", re.IGNORECASE)
XML = re.compile(rb"<\?xml\b", re.IGNORECASE)
JSON_ARRAY = re.compile(rb'\[\s*([\[{]|"[^"]*"\s*,|-?\d)')
JSON_OBJECT = re.compile(rb'\{\s*("|\})')
LIBSVM = re.compile(rb"[+-]?[\d.]+( \d+:[^\s:]+)+\s*\n")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def detect_format(name: str, head: bytes) -> Format:
    """Return a file's format; CSV if nothing else matches.

    Args:
        name: the file's name, for errors.
        head: its first `HEAD_BYTES`, decompressed, in UTF-8 if it is text.

    Raises:
        DataError: the format is not supported.
    """
    is_binary = b"\0" in head
    if is_binary and head.startswith(b"PAR1"):
        return "parquet"
    if is_binary and head.startswith(b"ARROW1"):
        return "arrow"
    for signature, description, advice in (
        *UNSUPPORTED,
        *(UNSUPPORTED_BINARY if is_binary else ()),
    ):
        if head.startswith(signature):
            raise unsupported_format(name, description, advice)
    if head[TAR_OFFSET:].startswith(TAR_MAGIC):
        raise unsupported_format(name, "a tar archive", "unpack it")
    if PICKLE.match(head):
        raise unsupported_format(name, "a Python pickle", TO_PARQUET)
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if HTML.match(text):
        raise unsupported_format(name, "an HTML page", "download the file that the page links to")
    if XML.match(text):
        raise unsupported_format(name, "an XML document", TO_CSV)
    if LIBSVM.match(text):
        raise unsupported_format(name, "in LIBSVM's format", "name its columns and save it as CSV")
    if JSON_ARRAY.match(text):
        raise unsupported_format(name, "a JSON array", TO_JSON_LINES)
    if JSON_OBJECT.match(text):
        if _is_json_lines(text, is_complete=len(head) < HEAD_BYTES):
            return "json lines"
        raise unsupported_format(name, "one JSON document", TO_JSON_LINES)
    return "csv"


def unsupported_format(name: str, description: str, advice: str) -> DataError:
    """Return the error for an unsupported format."""
    return DataError(f"{name} is {description}, which is not supported; {advice} ({SUPPORTED})")


def _is_json_lines(text: bytes, is_complete: bool) -> bool:
    line, newline, rest = text.partition(b"\n")
    if not newline and not is_complete:
        return True  # a first line of more than HEAD_BYTES
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        # A document spans several lines; a malformed line is reported later, with its number.
        return rest.lstrip().startswith(b"{")
    values = list(first.values())
    return not (values and not rest.strip() and all(isinstance(v, dict | list) for v in values))
