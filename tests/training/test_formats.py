"""Detection of file formats, and errors for unsupported ones."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tests.training.test_reading import (
    ROWS,
    TEXT,
    detect_parsers,
    read_error,
    read_rows,
    write_file,
)
from training.data.reading import json_lines, open_source
from training.errors import DataError

FRAME = pl.DataFrame(ROWS, schema=["number", "text"], orient="row")
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in FRAME.to_dicts())


def make_zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return file.getvalue()


def make_ipc(**options: Any) -> bytes:
    file = io.BytesIO()
    FRAME.write_ipc(file, **options)
    return file.getvalue()


SUPPORTED = [
    ("rows.csv.bz2", bz2.compress(TEXT)),
    ("rows.csv.xz", lzma.compress(TEXT)),
    ("rows.csv.zst", pa.compress(TEXT, codec="zstd", asbytes=True)),
    ("rows.zip", make_zip(rows_csv=TEXT)),
    ("rows.zip", make_zip(rows_csv=TEXT, **{"__MACOSX____._rows_csv": b"\0\5\x16\7"})),
    ("rows.jsonl.gz", gzip.compress(LINES)),
    ("rows.csv", TEXT.replace(b",", b"\t").decode().encode("utf-16")),
    ("rows.txt.gz", gzip.compress(b"\xfe\xff" + TEXT.decode().encode("utf-16-be"))),
    ("rows.json", LINES),
    ("rows.ndjson", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n").rstrip()),
    ("rows.json", LINES.replace(b"null", b"NaN", 1)),
    ("rows.json", b'{"number": 1.5, "text": "x"}\n{"text": "y"}\n{"number": -3}'),
    ("rows.feather", make_ipc()),
    ("rows.arrow", make_ipc(compression="zstd")),
    ("rows", make_ipc()),
]


@pytest.mark.parametrize(("name", "data"), SUPPORTED, ids=[name for name, _ in SUPPORTED])
def test_format_is_detected_from_content(tmp_path: Path, name: str, data: bytes) -> None:
    source = open_source(write_file(tmp_path / name, data))
    assert source.columns == ("number", "text")
    assert read_rows(source) == ROWS


def test_blanks_around_names_are_stripped_in_csv_and_rejected_elsewhere(tmp_path: Path) -> None:
    path = write_file(tmp_path / "rows.csv", "\u00a0a, b\t\n1,2\n".encode())
    assert open_source(path).columns == ("\u00a0a", "b")  # the gateway keeps U+00A0 too
    FRAME.rename({"text": "text "}).write_parquet(tmp_path / "rows.parquet")
    write_file(tmp_path / "rows.jsonl", b'{"text ": 1}\n')
    for name in ("rows.parquet", "rows.jsonl"):
        with pytest.raises(
            DataError, match=r"the column name 'text ' begins or ends with a blank$"
        ):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["rows", "rows.csv"])
def test_parquet_is_detected_regardless_of_name(tmp_path: Path, name: str) -> None:
    FRAME.write_parquet(tmp_path / name)
    assert read_rows(open_source(str(tmp_path / name))) == ROWS


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.bz2", "csv.xz", "csv.zst", "csv.zip"])
def test_large_file_is_read_in_batches(tmp_path: Path, suffix: str) -> None:
    rows = 1_000_000
    text = b"a,b\n" + b"".join(b"%d,some text\n" % n for n in range(rows))
    compress = {
        "csv": bytes,
        "csv.gz": lambda data: gzip.compress(data, 1),
        "csv.bz2": lambda data: bz2.compress(data, 1),
        "csv.xz": lambda data: lzma.compress(data, preset=0),
        "csv.zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
        "csv.zip": lambda data: make_zip(rows_csv=data),
    }
    source = open_source(write_file(tmp_path / f"rows.{suffix}", compress[suffix](text)))
    batches = [batch.frame["a"] for batch in source.batches(detect_parsers(source))]
    assert len(batches) > 1
    assert max(len(batch) for batch in batches) < rows / 2
    assert pl.concat(batches).to_list() == list(range(rows))


def make_workbook() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("[Content_Types].xml", "xl/workbook.xml"):
            archive.writestr(name, b"")
    return file.getvalue()


def make_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("rows.csv"))
    return file.getvalue()


def make_database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "rows.db") as connection:
        connection.execute("create table rows (number)")
    connection.close()
    return (folder / "rows.db").read_bytes()


def make_avro() -> bytes:
    file = io.BytesIO()
    FRAME.write_avro(file)
    return file.getvalue()


def make_ipc_stream() -> bytes:
    file = io.BytesIO()
    FRAME.write_ipc_stream(file)
    return file.getvalue()


UNSUPPORTED = [
    (make_workbook(), "an Excel workbook"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an Excel workbook (.xls)"),
    (make_zip(mimetype=b"application/vnd.oasis.opendocument.spreadsheet"), "an OpenDocument"),
    (b'[{"number": 1}, {"number": 2}]', "a JSON array"),
    (b"[[1, 2], [3, 4]]", "a JSON array"),
    (b'{\n  "number": [1, 2]\n}', "one JSON document"),
    (b'{"number": {"0": 1, "1": 2}, "text": {"0": "x"}}', "one JSON document"),
    (b'{"deep": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "one JSON document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\n<!DOCTYPE html><html></html>", "an HTML page"),
    (b'<?xml version="1.0"?><rows/>', "an XML document"),
    (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    (make_avro(), "an Avro file"),
    (b"ORC\x0a\x0b\0", "an ORC file"),
    (make_ipc_stream(), "an Arrow IPC stream"),
    (b"FEA1" + bytes(50), "a Feather file of version 1"),
    (pickle.dumps([1]), "a Python pickle"),
    (pickle.dumps({"number": [1]}, protocol=2), "a Python pickle"),
    (make_tar(), "a tar archive"),
    (gzip.compress(make_tar()), "a tar archive"),
    (b"1 1:0.5 7:2\n-1 2:1\n", "in LIBSVM's format"),
    (b"\x04\x22\x4d\x18" + bytes(50), "compressed with LZ4"),
]


@pytest.mark.parametrize(
    ("data", "description"), UNSUPPORTED, ids=[description for _, description in UNSUPPORTED]
)
def test_unsupported_format_is_named_in_error(
    tmp_path: Path, data: bytes, description: str
) -> None:
    message = read_error(tmp_path / "rows.csv", data)
    assert message.startswith(f"FILE is {description}")
    assert "which is not supported; " in message
    assert message.endswith("(supported formats: CSV, JSON Lines, Parquet and Arrow IPC)")


def test_sqlite_database_is_named_in_error(tmp_path: Path) -> None:
    message = read_error(tmp_path / "rows.csv", make_database(tmp_path))
    assert message.startswith("FILE is an SQLite database, which is not supported; export a table")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("[a],b", "[1],2"),
        ("{a},b", "{1},2"),
        ("<a>,b", "<1>,2"),
        ("ORC,b", "x,2"),
        ("PAR1,PAR2", "1,2"),
        ("a 1:0,b", "1 1:0,2"),
        ("sep,b", "1,2"),
    ],
)
def test_csv_may_begin_like_another_format(tmp_path: Path, header: str, row: str) -> None:
    source = open_source(write_file(tmp_path / "rows.csv", f"{header}\n{row}\n".encode()))
    assert source.columns == tuple(header.split(","))


def test_zip_archive_of_several_files_is_rejected(tmp_path: Path) -> None:
    assert read_error(tmp_path / "rows.zip", make_zip(a_csv=TEXT, sub__b_csv=TEXT)) == (
        "FILE: expected one file in the zip archive, got a.csv, sub/b.csv; unpack it and name "
        "the file or the directory"
    )


def test_compressed_parquet_is_rejected(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "rows.parquet")
    data = gzip.compress((tmp_path / "rows.parquet").read_bytes())
    assert read_error(tmp_path / "rows.gz", data) == (
        "FILE is a Parquet file that is compressed; decompress it"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', """expected a JSON object, got '{"a": 1': Expecting ',' delimiter: """),
        ("[1]", "expected a JSON object, got [1]"),
        ("a,b", "expected a JSON object, got 'a,b': Expecting value: "),
        ('{"a": 1, "c": 2}', "the key 'c' is not in the first lines; "),
        ('{"a": "one"}', "column 'a': expected a number, got 'one'"),
    ],
)
def test_invalid_json_line_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.setattr(json_lines, "CHUNK_BYTES", 64)
    data = '{"a": 1, "b": "x"}\n' * 9 + "\n" + f'{line}\n{{"a": 2}}\n'
    error = read_error(tmp_path / "rows.json", data.encode(), a="numeric")
    assert error.startswith(
        f"FILE line 11: {message}" if "column" not in message else "FILE line 11"
    )
    assert message in error


def test_mixed_types_under_one_json_key_are_read_as_text(tmp_path: Path) -> None:
    data = b'{"a": 1, "b": true}\n{"a": "x", "b": "maybe"}\n{"a": "y", "b": 2}\n'
    source = open_source(write_file(tmp_path / "rows.json", data))
    assert read_rows(source) == [("1", "true"), ("x", "maybe"), ("y", "2")]
