"""Feedback bodies: malformed lines, labels and row numbers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import orjson
import pytest

from client.codecs.feedback import FeedbackReader
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
