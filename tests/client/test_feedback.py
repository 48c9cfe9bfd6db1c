"""Feedback bodies: malformed lines, labels and row numbers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import orjson
import pytest

from client.codecs.feedback import FeedbackReader
from client.codecs.tables.lines import BLOCK_BYTES
from client.errors import ClientError

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def make_reader(media_type: str, *class_names: str) -> FeedbackReader:
    return FeedbackReader(media_type, class_names, None, NOW)


def read_labels(row: Any, *class_names: str) -> list[str] | str:
    """Return the labels stored for a row, or its error."""
    reader = make_reader("application/json", *class_names)
    lines = b"".join(reader.read_json(orjson.dumps(row))).splitlines()
    if reader.errors:
        return str(reader.errors[0]["error"])
    return [orjson.loads(line)["label"] for line in lines]


def read_all(reader: FeedbackReader, body: bytes) -> bytes:
    """Return the log's lines for a body of NDJSON, CSV or TSV."""
    stored = [lines for block in reader.blocks(body) for lines in reader.read(block)]
    return b"".join([*stored, *reader.read(reader.flush())])


def test_rows_before_a_malformed_line_are_accepted() -> None:
    reader = make_reader("text/csv", "yes", "no")
    valid = "".join(f"a{number},yes\n" for number in range(500))
    stored: list[bytes] = []

    def store(body: bytes) -> None:
        for block in (*reader.blocks(body), reader.flush()):
            for lines in reader.read(block):
                stored.append(lines)

    with pytest.raises(ClientError, match="line 502"):
        store(f'id,label\n{valid}b,"ye"s\nc,no\n'.encode())
    assert reader.accepted == b"".join(stored).count(b"\n") == 500


def test_quoted_labels_may_span_blocks() -> None:
    reader = make_reader("text/csv")
    label = "line\n" * 99 + "end"
    rows = 3 * BLOCK_BYTES // len(label)
    lines = read_all(reader, b"id,label\n" + f'a,"{label}"\n'.encode() * rows + b"b,one,more\n")
    assert [orjson.loads(line)["label"] for line in lines.splitlines()] == [label] * rows
    assert reader.accepted == rows
    assert [error["line"] for error in reader.errors] == [100 * rows + 2]


@pytest.mark.parametrize("size", [10, 3 * BLOCK_BYTES])
def test_quoted_label_must_end(size: int) -> None:
    reader = make_reader("text/csv")
    with pytest.raises(ClientError, match="line "):
        read_all(reader, b'id,label\na,"yes"\nb,"' + b"line\n" * (size // 5))
    assert reader.accepted == 1


@pytest.mark.parametrize("label", [True, "true", "TRUE", "True"])
def test_boolean_labels_match_class_names_in_any_case(label: Any) -> None:
    assert read_labels({"id": "a", "label": label}, "False", "True") == ["True"]


def test_blank_label_and_overlong_row_number_are_rejected() -> None:
    assert "label: expected a label" in read_labels({"id": "a", "label": "  "})
    row = {"id": "a", "label": "yes", "row": "1" * 5000}
    assert str(read_labels(row)).startswith("row: expected an integer from 0")


def test_json_may_start_with_a_byte_order_mark() -> None:
    reader = make_reader("application/json", "yes")
    assert len(list(reader.read_json(b'\xef\xbb\xbf{"id": "a", "label": "yes"}'))) == 1
