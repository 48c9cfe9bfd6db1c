"""Boundaries of CSV records, and quotes that RFC 4180 does not allow."""

from __future__ import annotations

import csv
import io
import random
import time
from pathlib import Path

import pytest

from tests.training.test_reading import NEVER_CLOSED, read_error, read_rows, write_file
from training.data.reading import csv_file, open_source
from training.data.reading.csv_header import read_header
from training.data.reading.quotes import extract_records

PIECES = [
    '"a"',
    '"a,b"',
    '"a\nb"',
    '"say ""hi"""',
    '""',
    "",
    "x",
    '5"',
    '5" pipe',
    'a "b" c',
    'x""',
]


def parse_csv(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@pytest.mark.parametrize("seed", range(20))
def test_fields_match_python_csv_module(seed: int) -> None:
    rng = random.Random(seed)
    end = rng.choice(["\n", "\r\n"])
    lines = [",".join(rng.choices(PIECES, k=3)) + end for _ in range(8)]
    data = "".join(lines).encode()
    records, used = extract_records(data, b",", final=True)
    assert used == len(data)
    assert parse_csv(records) == parse_csv(data)
    # The rewritten records conform to RFC 4180: every field that contains a quote is quoted.
    text = io.StringIO(records.decode(), newline="")
    assert list(csv.reader(text, strict=True)) == parse_csv(data)


@pytest.mark.parametrize("seed", range(20))
def test_incomplete_record_is_left_for_next_chunk(seed: int) -> None:
    rng = random.Random(seed)
    data = "".join(",".join(rng.choices(PIECES, k=3)) + "\r\n" for _ in range(6)).encode()
    for cut in range(len(data)):
        first, used = extract_records(data[:cut], b",", final=False)
        rest, _ = extract_records(data[used:], b",", final=True)
        assert used <= cut
        assert parse_csv(first) + parse_csv(rest) == parse_csv(data), cut


@pytest.mark.parametrize("chunk_bytes", [20, 8 << 20])
def test_inch_marks_are_literal_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(csv_file, "CHUNK_BYTES", chunk_bytes)
    data = b'size,z\n5" pipe,1\n12",2\n"7"" pipe",3\n' + b'5" x 7",4\nplain,5\n' * 20
    rows = read_rows(open_source(write_file(tmp_path / "rows.csv", data)))
    assert rows[:4] == [('5" pipe', 1), ('12"', 2), ('7" pipe', 3), ('5" x 7"', 4)]
    assert len(rows) == 43


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_blanks_around_quoted_fields_are_ignored(tmp_path: Path, separator: str) -> None:
    data = separator.join(("a", ' "b"', " c")) + "\n"
    data += separator.join(("1", f' "x{separator} y" ', "2")) + "\n"
    source = open_source(write_file(tmp_path / "rows.csv", data.encode()))
    assert source.columns == ("a", "b", "c")
    assert read_rows(source) == [(1, f"x{separator} y", 2)]


def test_unclosed_quote_is_reported_with_line(tmp_path: Path) -> None:
    lines = ['"' * (i in (100, 300)) + f"note,{i}\n" for i in range(400)]
    assert read_error(tmp_path / "rows.csv", "".join(["note,x\n", *lines]).encode()) == (
        "FILE line 102: a quote opens a field here and is closed on line 302 before 'note,300'; "
        f"{csv_file.REMOVE_QUOTE}"
    )


def test_unclosed_quote_is_reported_without_reading_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(csv_file, "MAX_RECORD_BYTES", 10_000)
    data = b'a,b\n1,x\n2,"y\n' + b"3,z\n" * 5000 + b'4,"w"\n'
    assert read_error(tmp_path / "rows.csv", data) == f"FILE line 3: {NEVER_CLOSED}"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('"Width (cm, outer, max)";"Weight (kg, net)";y\n0.5;2;1\n', 3),
        ('"Cost per 1,000,000 items"\t"Share, %, net"\ty\n0.5\t2\t1\n', 3),
        ("width, cm;weight, kg;price, net, EUR;y\n1;2;3;0\n4;5;6;1\n", 4),
        ("a;b\n1,5;2,5\n1,7;3,25\n", 2),
        ("a,b|c;d\n1|2\n3|4\n", 2),
        ("sep=;\na,b;c\n1;2\n", 2),
        ('"sep=|"\r\na,b|c\r\n1|2\r\n', 2),
        ("\ufeffsep=\t\na b\tc\n1\t2\n", 2),
        ('"a;b;c;d",e\n1,2\n', 2),
        ("text\nsome, words; here\n", 1),
    ],
)
def test_separator_is_detected(tmp_path: Path, text: str, columns: int) -> None:
    source = open_source(write_file(tmp_path / "rows.csv", text.encode()))
    assert len(source.columns) == columns


def test_header_with_many_columns_is_read_quickly() -> None:
    names = [f"c{number}" for number in range(50_000)]
    started = time.monotonic()
    columns, _ = read_header("rows.csv", 1, ",".join(names).encode() + b"\n", b",")
    assert time.monotonic() - started < 5  # one search per column takes half a minute
    assert list(columns) == names


def test_line_numbers_include_separator_line(tmp_path: Path) -> None:
    data = b"sep=;\na;b\n1;x\ny;z\n"
    assert read_error(tmp_path / "rows.csv", data, a="numeric").startswith(
        "FILE line 4, column 'a'"
    )
    assert read_error(tmp_path / "rows.csv", b"sep=;\na;a\n1;x\n") == (
        "FILE line 2: duplicate column 'a'"
    )
