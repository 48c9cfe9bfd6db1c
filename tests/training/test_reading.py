from __future__ import annotations

import csv
import gzip
import io
import os
import random
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.processes import ROOT
from training.data.prepare import Roles, prepare
from training.data.reading import FrameFile, Source, csv_file, open_source
from training.data.reading.chunked_file import CHUNK_BYTES
from training.data.reading.csv_header import SAVE_AS_UTF_8
from training.errors import DataError
from training.features.categorical import CategoricalParser
from training.features.cells import BLANKS, MISSING, CellFormat, CellParser, Kind
from training.features.detect import PARSERS, detect
from training.features.numeric import NumericParser

NEVER_CLOSED = f"a quote opens a field here and is never closed; {csv_file.REMOVE_QUOTE}"
NUL = "expected text, got a NUL byte; the file is damaged, or not a CSV file"
ROWS = [(1.5, "x"), (None, "y"), (-3.0, None)]
TEXT = b"number,text\n1.5,x\n,y\n-3,\n"


def detect_parsers(source: Source, **kinds: Kind) -> dict[str, CellParser]:
    head = source.head()
    return {
        name: PARSERS[kinds[name]]()
        if name in kinds
        else detect(head.frame[name], CellFormat(), source.separator, head.location)
        for name in source.columns
    }


def detect_kinds(source: Source) -> list[Kind]:
    return [parser.kind for parser in detect_parsers(source).values()]


def read_rows(source: Source, **kinds: Kind) -> list[tuple[Any, ...]]:
    batches = source.batches(detect_parsers(source, **kinds))
    return [row for batch in batches for row in batch.frame.select(sorted(source.columns)).rows()]


def write_file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def read_error(path: Path, data: bytes, **kinds: Kind) -> str:
    """Return the error for a file's content, with FILE in place of its path."""
    name = write_file(path, data)
    with pytest.raises(DataError) as caught:
        read_rows(open_source(name), **kinds)
    return str(caught.value).replace(name, "FILE")


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        TEXT.replace(b",", b";"),
        TEXT.replace(b",", b"\t"),
        TEXT.replace(b",", b"|"),
        b"\xef\xbb\xbf" + TEXT,
        b'\xef\xbb\xbf"number",' + TEXT.removeprefix(b"number,"),
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.rstrip(b"\n"),
        TEXT.replace(b"\n", b"\n\n\n"),
        TEXT.replace(b"\n", b"\r\n\r\n"),
        TEXT.replace(b"1.5,x", b'"1.5","x"'),
        TEXT.replace(b"1.5", b" 1.5 ").replace(b"-3", b"-3.0e0\t"),
        TEXT.replace(b"number,text", b" number , text "),
        TEXT.replace(b"\n,", b"\n NA ,"),
        gzip.compress(TEXT),
    ],
    ids=[
        *("comma", "semicolon", "tab", "pipe", "byte order mark", "byte order mark and quotes"),
        *("CRLF", "no last line break", "blank lines", "blank lines with CRLF", "quotes"),
        *("spaces around numbers", "spaces in the header", "spaces around NA", "gzip"),
    ],
)
def test_csv_variants_are_read_alike(tmp_path: Path, data: bytes) -> None:
    source = open_source(write_file(tmp_path / "rows.csv", data))
    assert source.columns == ("number", "text")
    assert detect_kinds(source) == ["numeric", "categorical"]
    assert read_rows(source) == ROWS


def test_quoted_fields_may_contain_separators_line_breaks_and_quotes(tmp_path: Path) -> None:
    data = b'"the\nfirst";b\n"x;y";"say ""hi"""\n"\nz\r\n\n";""\n'
    source = open_source(write_file(tmp_path / "rows.csv", data))
    assert source.columns == ("the\nfirst", "b")
    assert [row[::-1] for row in read_rows(source)] == [("x;y", 'say "hi"'), ("z", None)]


def test_field_may_exceed_default_limit_of_python_csv_module(tmp_path: Path) -> None:
    long = "x" * 200_000
    source = open_source(write_file(tmp_path / "rows.csv", f'a,b\n"{long}",\n\ny,\n'.encode()))
    assert read_rows(source) == [(long, None), ("y", None)]


@pytest.mark.parametrize("token", MISSING)
@pytest.mark.parametrize("template", ["{}", ' "{}"', " {} "], ids=["bare", "quoted", "spaces"])
@pytest.mark.parametrize(
    ("value", "parsed"),
    [("2", 2.0), ("x", "x"), ("TRUE", "true")],
    ids=["number", "text", "boolean"],
)
def test_missing_value_tokens_are_read_as_missing(
    tmp_path: Path, token: str, template: str, value: str, parsed: object
) -> None:
    missing = template.format(token)
    if template == ' "{}"':
        missing = missing.strip()
    data = f"a,b\n{value},0\n{missing},1\n".encode()
    assert read_rows(open_source(write_file(tmp_path / "rows.csv", data))) == [
        (parsed, 0),
        (None, 1),
    ]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ("1 -2.5 3e2", None, [1.0, -2.5, 300.0]),
        ("0 1 0", None, [0.0, 1.0, 0.0]),
        ("NA NA", None, [None, None]),
        ("7 x y", None, ["7", "x", "y"]),
        ("true FALSE True", None, ["true", "false", "true"]),
        ("true 0 false", None, ["true", "0", "false"]),
        ("1 0 TRUE false NA", "boolean", ["true", "false", "true", "false", None]),
        ("007 40 NA", "categorical", ["007", "40", None]),
        ("true NA", "categorical", ["true", None]),
    ],
)
def test_csv_column_kind_is_detected_unless_specified(
    tmp_path: Path, values: str, kind: Kind | None, expected: list[object]
) -> None:
    data = "a,b\n" + "".join(f"{value},0\n" for value in values.split())
    source = open_source(write_file(tmp_path / "rows.csv", data.encode()))
    rows = read_rows(source, a=kind) if kind else read_rows(source)
    assert [row[0] for row in rows] == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pl.Series([1, None]), None, [1.0, None]),
        (pl.Series([1, None], dtype=pl.Decimal(10, 2)), None, [1.0, None]),
        (pl.Series([None, None]), None, [None, None]),
        (pl.Series(["1", "NA"]), None, [1.0, None]),
        (pl.Series(["1", "NA"], dtype=pl.Categorical), None, ["1", None]),
        (pl.Series(["x", ""], dtype=pl.Categorical), None, ["x", None]),
        (pl.Series([True, None]), None, ["true", None]),
        (pl.Series([True, None]), "numeric", [1.0, None]),
        (pl.Series(["1", "NA"]), "numeric", [1.0, None]),
        (pl.Series([2**53 + 1, None]), "categorical", ["9007199254740993", None]),
        # pandas stores integers with missing values as floats.
        (pl.Series([1.0, float("nan"), 2.5]), "categorical", ["1", None, "2.5"]),
        (pl.Series([1.0, float("nan"), 0.0]), "boolean", ["true", None, "false"]),
        (pl.Series([date(2025, 1, 2)]), "categorical", ["2025-01-02"]),
    ],
)
def test_parquet_column_kind_follows_type_unless_specified(
    tmp_path: Path, values: pl.Series, kind: Kind | None, expected: list[object]
) -> None:
    pl.DataFrame({"a": values}).write_parquet(tmp_path / "rows.parquet")
    source = open_source(str(tmp_path / "rows.parquet"))
    rows = read_rows(source, a=kind) if kind else read_rows(source)
    assert [row[0] for row in rows] == expected


def test_float_categories_are_formatted_alike_in_every_batch() -> None:
    # 1.5 is in the first batch only; 3 must not be 3.0 there and 3 in the second.
    frame = pl.DataFrame({"a": [1.5, *[3.0] * 70_000]})
    batches = Source("rows", [FrameFile("rows", frame)]).batches({"a": CategoricalParser()})
    assert [batch.frame["a"].unique().sort().to_list() for batch in batches] == [
        ["1.5", "3"],
        ["3"],
    ]


@pytest.mark.parametrize("name", ["", "*.*"], ids=["directory", "glob"])
def test_directory_or_glob_is_one_table_regardless_of_column_order(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "1.csv").write_bytes(b"number,text\n1.5,x\n")
    (folder / "2.tsv.gz").write_bytes(gzip.compress(b"text\tnumber\ny\t\n"))
    frame = pl.DataFrame({"text": pl.Series([None], dtype=pl.String), "number": [-3]})
    frame.write_parquet(folder / "3.PARQUET")
    if not name:
        (folder / "README.md").touch()
    assert read_rows(open_source(str(folder / name))) == ROWS


def test_standard_input_is_read(tmp_path: Path) -> None:
    lines = [f"{i % 7},{'yes' if i % 7 + i % 3 > 4 else 'no'}" for i in range(300)]
    options = ["--data=-", "--label=b", "--model=piped", "--optimizer=newton"]
    process = subprocess.run(
        [sys.executable, "-m", "training", "fit", f"--models={tmp_path}", *options],
        input="\n".join(["a,b", *lines]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "300 rows" in process.stderr
    assert process.stdout.strip() == str(tmp_path / "piped" / "1")


def test_pipe_is_read_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "CHUNK_BYTES", 16)
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(b"a,b\n" + b"".join(b"%d,x\n" % i for i in range(100)))
    file = csv_file.CsvFile("standard input", os.fdopen(read_end, "rb", buffering=0))
    assert read_rows(Source("-", [file])) == [(i, "x") for i in range(100)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "FILE: expected a header and rows, found nothing"),
        ("a,b\n", "FILE: expected a header and rows, found nothing"),
        ("a,b\n\n\r\n", "FILE: expected a header and rows, found nothing"),
        ("\na,b\n1,2\n", "FILE line 1: expected a header with the names of the columns"),
        (
            "1,2.5\n3,4\n",
            "FILE line 1: expected the names of the columns, got numbers; write a first line with "
            "a name for each column",
        ),
        ("a,b,a\n1,2,3\n", "FILE line 1: duplicate column 'a'"),
        ("a,,c\n1,2,3\n", "FILE line 1: column 2 has no name"),
        ("a,b\r1,2\r", "FILE line 1: expected lines that end in LF or CRLF"),
        ('a,"b\n1,2\n', f"FILE line 1: {NEVER_CLOSED}"),
        ("a,b\n1,2\n3\n4,5\n", "FILE line 3: expected 2 fields as in the header, got 1"),
        ("a,b\n1,2\n\n3\n", "FILE line 4: expected 2 fields as in the header, got 1"),
        ("a,b\n1,2\n3,4,5\n", "FILE line 3: expected 2 fields as in the header, got 3"),
        ("a,b\n1,2\n3,4,\n5\n", "FILE line 3: expected 2 fields as in the header, got 3"),
        ('a,b\n1,"x\n\ny"\n\n2\n', "FILE line 6: expected 2 fields as in the header, got 1"),
        ('a,b\n1,x\n"2,y\n3,z\n', f"FILE line 3: {NEVER_CLOSED}"),
        ('a,b\n1,x\n2,"y\n3,z\n', f"FILE line 3: {NEVER_CLOSED}"),
        (
            'a,b\n1,"x\n2,y\n"3,z\n',
            "FILE line 2: a quote opens a field here and is closed on line 4 before '3,z'; "
            f"{csv_file.REMOVE_QUOTE}",
        ),
        (
            'a,b\n1,x\n2,"y"z\n',
            "FILE line 3: a quote opens a field here and is closed before 'z'; "
            f"{csv_file.REMOVE_QUOTE}",
        ),
        ("a,b\n1,x\n2,\0\n", f"FILE line 3: {NUL}"),
        ('a,b\n1,"x\n\0"\n', f"FILE line 3: {NUL}"),
        ('a,b\n1,"' + "x\n" * 100_000, f"FILE line 2: {NEVER_CLOSED}"),
    ],
)
def test_malformed_csv_is_reported_with_line(tmp_path: Path, data: str, message: str) -> None:
    assert read_error(tmp_path / "rows.csv", data.encode()) == message


def test_too_long_column_name_is_reported(tmp_path: Path) -> None:
    limit = csv.field_size_limit(10)
    try:
        message = read_error(tmp_path / "rows.csv", b"a,longer name\n1,2\n")
    finally:
        csv.field_size_limit(limit)
    assert message == "FILE line 1: expected column names of at most 10 characters"


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("x", "numeric", "a number, got 'x'"),
        ("1,5", "numeric", "a number, got '1,5'"),
        ("0x10", "numeric", "a number, got '0x10'"),
        ("maybe", "boolean", "true or false, got 'maybe'"),
        ("2", "boolean", "true or false, got '2'"),
    ],
)
@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("a,b\n0,x\n", 3),
        ('a,b\r\n\r\n0,"x\r\n\r\ny"\r\n\r\n,"z"\r\n', 8),
        ('"a",b\n\n' + '0,"x\n\n"\n\n' * 50, 203),
    ],
    ids=["plain", "blank lines and line breaks in quotes", "several chunks"],
)
def test_invalid_value_is_reported_with_line_and_column(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    kind: Kind,
    expected: str,
    before: str,
    line: int,
) -> None:
    if line > 100:
        monkeypatch.setattr(csv_file, "CHUNK_BYTES", 100)
    data = f'{before}"{value}",w\n1,"\nv"\n'.encode()
    message = read_error(tmp_path / "rows.csv", data, a=kind)
    assert message.startswith(f"FILE line {line}, column 'a': expected {expected}; ")


def test_line_numbers_continue_after_first_chunk(tmp_path: Path) -> None:
    rows = b'1,"x\n"\n\n' * (CHUNK_BYTES // 8)
    lines = 1 + rows.count(b"\n")
    message = read_error(tmp_path / "rows.csv", b"a,b\n" + rows + b"y,z\n", a="numeric")
    assert message.startswith(f"FILE line {lines + 1}, column 'a': expected a number, got 'y'; ")


@pytest.mark.parametrize("value", ["inf", "-inf", "1e309", "1e200"])
def test_infinite_or_too_large_number_is_rejected(tmp_path: Path, value: str) -> None:
    source = open_source(
        write_file(tmp_path / "rows.csv", f"a,b,y\n1,,u\n\n2,{value},v\n".encode())
    )
    parsers = {"a": NumericParser(), "b": NumericParser(), "y": CategoricalParser()}
    (batch,) = source.batches(parsers)
    roles = Roles.of({"a": parsers["a"], "b": parsers["b"]}, "y", None)
    with pytest.raises(DataError) as caught:
        prepare(batch, roles)
    assert str(caught.value) == (  # the value as written in the file
        f"{source.name} line 4, column 'b': expected a number between -1e+130 and 1e+130, "
        f"got {value}"
    )


@pytest.mark.parametrize("chunk_bytes", [16, 8 << 20])
def test_non_utf_8_text_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(csv_file, "CHUNK_BYTES", chunk_bytes)
    data = b'a,b\n1,x\n2,"\n"\n3,caf\xe9\n'
    assert read_error(tmp_path / "rows.csv", data) == (
        f"FILE line 5: expected UTF-8, got the byte 0xe9; {SAVE_AS_UTF_8}"
    )
    assert read_error(tmp_path / "rows.csv", b"a,b\xfc\n1,2\n") == (
        f"FILE line 1: expected a header in UTF-8, got the byte 0xfc; {SAVE_AS_UTF_8}"
    )


@pytest.mark.parametrize("length", [8, 1000], ids=["in the header", "in the rows"])
def test_truncated_gzip_file_is_rejected(tmp_path: Path, length: int) -> None:
    rng = random.Random(0)
    rows = "".join(f"{rng.random()},{rng.random()}\n" for _ in range(1000))
    data = gzip.compress(f"a,b\n{rows}".encode())
    assert read_error(tmp_path / "rows.csv.gz", data[:length]) == (
        "FILE: cannot be read: Compressed file ended before the end-of-stream marker was reached"
    )


def test_files_with_different_columns_are_rejected(tmp_path: Path) -> None:
    first = write_file(tmp_path / "1.csv", b"a,b\n1,2\n")
    second = write_file(tmp_path / "2.csv", b"a\n1\n")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == f"{first} has a column 'b' that {second} lacks"
    write_file(tmp_path / "2.csv", b"b,c,a\n1,2,3\n")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == f"{second} has a column 'c' that {first} lacks"


def test_path_without_table_is_rejected(tmp_path: Path) -> None:
    for name in ("nothing.csv", "*.csv"):
        with pytest.raises(DataError) as caught:
            open_source(str(tmp_path / name))
        assert str(caught.value) == f"{tmp_path / name}: no such file, directory or built-in table"
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: no file in this directory ends in .csv, .tsv, .tab, .txt, .ndjson, .jsonl, "
        ".json, .parquet, .pq, .arrow, .feather, .ipc; it is empty"
    )


def test_unsupported_parquet_column_type_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"many": [[1]]}).write_parquet(path)
    source = open_source(str(path))
    with pytest.raises(DataError) as caught:
        detect_kinds(source)
    assert str(caught.value) == (
        "column 'many': expected numbers, text, booleans or dates, got the type List(Int64); "
        "--leave-out 'many' leaves the column out"
    )
    with pytest.raises(DataError) as caught:
        list(source.batches({"many": NumericParser()}))
    assert str(caught.value) == (
        f"{path} row 1, column 'many': expected a number, got the type List(Int64)"
    )


def test_negative_zero_does_not_change_format_of_other_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"code": [-0.0] + [0.0] * 40}).write_parquet(path)
    (batch,) = open_source(str(path)).batches({"code": CategoricalParser()})
    assert batch.frame["code"].to_list() == ["-0"] + ["0"] * 40


def test_invalid_value_in_parquet_file_is_reported_with_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"a": ["1"] * 70_000 + ["x"]}).write_parquet(path, row_group_size=1000)
    with pytest.raises(DataError) as caught:
        list(open_source(str(path)).batches({"a": NumericParser()}))
    expected = f"{path} row 70001, column 'a': expected a number, got 'x'; "
    assert str(caught.value).startswith(expected)


def test_invalid_parquet_file_is_rejected(tmp_path: Path) -> None:
    path = Path(write_file(tmp_path / "rows.parquet", b"a,b\n1,2\n"))
    with pytest.raises(DataError) as caught:
        open_source(str(path))
    assert str(caught.value).startswith(f"{path}: cannot be read as a Parquet file: ")
    valid = tmp_path / "valid.parquet"
    pl.DataFrame({"a": range(100_000)}).write_parquet(valid)
    data = bytearray(valid.read_bytes())
    data[100:5000] = bytes(4900)
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(open_source(str(path)).batches({"a": NumericParser()}))
    assert str(caught.value).startswith(f"{path}: cannot be read: ")


FIELDS = ["x", "", '"', "\n", ",", "\r\n", "é", '""', "a,b", '"\n"', "\n\n", "word", "NA", "12"]


@pytest.mark.parametrize("seed", range(3))
def test_rows_and_line_numbers_do_not_depend_on_chunk_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    records = [("".join(rng.choices(FIELDS, k=2)), str(n), rng.choice("xy")) for n in range(30)]
    text = io.StringIO(newline="")
    end = rng.choice(["\n", "\r\n"])
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(["a", "b", "c"])
    line_numbers = []
    for record in records:
        text.write(end * rng.choice([0, 0, 0, 1, 3]))
        line_numbers.append(1 + text.getvalue().count("\n"))
        writer.writerow(record)
    name = write_file(tmp_path / "rows.csv", text.getvalue().encode())
    parsers = {"a": CategoricalParser(), "b": NumericParser(), "c": CategoricalParser()}
    cells = [(a.strip(BLANKS), float(b), c) for a, b, c in records]
    expected = [(None if a in MISSING else a, b, c) for a, b, c in cells]
    for chunk_bytes in [*range(16 + seed, 201, 3), 8 << 20]:
        monkeypatch.setattr(csv_file, "CHUNK_BYTES", chunk_bytes)
        batches = list(open_source(name).batches(parsers))
        rows = [row for batch in batches for row in batch.frame.rows()]
        assert rows == expected, chunk_bytes
        locations = [batch.location(row) for batch in batches for row in range(len(batch.frame))]
        assert locations == [f"{name} line {line}" for line in line_numbers], chunk_bytes


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_rows_are_divided_among_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(csv_file, "CHUNK_BYTES", 64)
    for number in range(3):
        lines = b"".join(b"%d,x\n" % (number * 100 + i) for i in range(100))
        (tmp_path / f"{number}.csv").write_bytes(b"a,b\n" + lines)
    source = open_source(str(tmp_path))
    values_by_worker = [
        [
            value
            for batch in source.batches({"a": NumericParser()}, index, workers)
            for value in batch.frame["a"]
        ]
        for index in range(workers)
    ]
    assert sorted(value for values in values_by_worker for value in values) == list(range(300))
    assert all(len(values) > 60 for values in values_by_worker)


def test_blank_lines_of_a_one_column_file_are_not_rows(tmp_path: Path) -> None:
    (tmp_path / "b=x").mkdir()
    path = tmp_path / "b=x" / "rows.csv"
    path.write_text('a\n1\n\n""\n2\n')
    assert read_rows(open_source(str(tmp_path))) == [(1.0, "x"), (None, "x"), (2.0, "x")]
    path.write_text("a\n1\n\nlow\n")
    with pytest.raises(DataError, match=r"rows\.csv line 4, column 'a': expected a number"):
        read_rows(open_source(str(tmp_path)), a="numeric")
