"""Feedback that is read in pieces: what is stored of bodies that cannot be read to their end."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import orjson
import pytest

from client.codecs.feedback import FeedbackReader
from client.errors import ClientError

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def reader(media_type: str, *class_names: str) -> FeedbackReader:
    return FeedbackReader(media_type, class_names, None, NOW)


def labels(row: Any, *class_names: str) -> list[str] | str:
    """Return the labels stored for a row, or its error."""
    one = reader("application/json", *class_names)
    lines = b"".join(one.read_json(orjson.dumps(row))).splitlines()
    return one.errors[0]["error"] if one.errors else [orjson.loads(x)["label"] for x in lines]


def test_rows_before_a_line_that_cannot_be_read_are_accepted() -> None:
    csv = reader("text/csv", "yes", "no")
    good = "".join(f"a{number},yes\n" for number in range(500))
    stored: list[bytes] = []

    def store(body: bytes) -> None:
        for block in (*csv.blocks(body), csv.flush()):
            for lines in csv.read(block):
                stored.append(lines)

    with pytest.raises(ClientError, match="line 502"):
        store(f'id,label\n{good}b,"ye"s\nc,no\n'.encode())
    assert csv.accepted == b"".join(stored).count(b"\n") == 500


@pytest.mark.parametrize("label", [True, "true", "TRUE", "True"])
def test_labels_of_classes_named_true_and_false(label: Any) -> None:
    assert labels({"id": "a", "label": label}, "False", "True") == ["True"]


def test_a_blank_label_and_an_endless_row_number_are_refused() -> None:
    assert "label: expected a label" in labels({"id": "a", "label": "  "})
    row = {"id": "a", "label": "yes", "row": "1" * 5000}
    assert str(labels(row)).startswith("row: expected an integer from 0")


def test_json_may_begin_with_a_byte_order_mark() -> None:
    one = reader("application/json", "yes")
    assert len(list(one.read_json(b'\xef\xbb\xbf{"id": "a", "label": "yes"}'))) == 1
