"""Feedback: labels that arrive after their predictions, in JSON, NDJSON, CSV or TSV.

Each row has the prediction's `id`, and a `label`, which is a class name of the model. `row`, the
row's index in the request (default 0), and `time`, when the label became known, are optional.
Invalid rows are refused; the others are accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson

from client.codecs.content_types import CSV, NDJSON, TSV
from client.codecs.json.arrays import describe
from client.codecs.tables.csv_records import read_records
from client.codecs.tables.lines import BYTE_ORDER_MARK, LineBlocks, check_text, decode_block
from client.errors import ClientError
from client.observability.prediction_ids import is_id
from client.serving.columns.categorical import WHOLE_NUMBER
from client.serving.columns.date import EPOCH, EXPECTED, parse_days

FORMAT = 1
FIELDS = ("id", "row", "label", "time")
READABLE = ("application/json", NDJSON, CSV, TSV)
_FIELD_SET = frozenset(FIELDS)
MAX_ERRORS = 20
# Batches of lines are small because each thread's allocator keeps the memory of its largest batch.
ROWS_PER_BATCH = 1024
MAX_ROW = 2**53 - 1


class FeedbackReader:
    """Incrementally converts the feedback of one request to lines of the feedback log.

    Attributes:
        accepted: number of accepted rows.
        refused: number of refused rows.
        errors: line and error of the first refused rows.
    """

    def __init__(
        self, media_type: str, class_names: Iterable[str], caller: str | None, now: datetime
    ) -> None:
        """Create a reader.

        Args:
            media_type: one of `READABLE`.
            class_names: the accepted labels; empty if every label is accepted.
            caller: the name of the API key.
            now: the time of the request.

        Raises:
            ClientError: 415, the type is not readable.
        """
        if media_type not in READABLE:
            raise ClientError(
                f'Content-Type: expected one of {", ".join(READABLE)}, got "{media_type[:100]}"',
                415,
            )
        self.accepted = 0
        self.refused = 0
        self.errors: list[dict[str, Any]] = []
        self._media_type = media_type
        self._class_names = tuple(class_names)
        self._labels = {name: name for name in self._class_names}
        # Training keeps the spelling of True and False; in JSON they are true and false.
        booleans = (name for name in self._class_names if name.lower() in ("true", "false"))
        self._labels.update({name.lower(): name for name in booleans})
        self._now = _format_time(now)
        self._caller = caller
        self._lines = LineBlocks()
        self._is_last = False
        self._columns: list[str] | None = None
        self._separator = "\t" if media_type == TSV else ","

    def blocks(self, chunk: bytes) -> Iterator[bytes]:
        """Add bytes of NDJSON, CSV or TSV, and yield blocks of whole lines for `read`."""
        return self._lines.feed(chunk)

    def flush(self) -> bytes:
        """Return the last block."""
        self._is_last = True
        return self._lines.flush()

    def read(self, block: bytes) -> Iterator[bytes]:
        """Yield the log's lines for a block of lines.

        Raises:
            ClientError: the text or a table's header cannot be read.
        """
        first = self._lines.line - block.count(b"\n")
        rows = self._read_ndjson if self._media_type == NDJSON else self._read_csv
        return self._write_lines(rows(block, first))

    def read_json(self, body: bytes) -> Iterator[bytes]:
        """Yield the log's lines for a JSON object, or a list of objects.

        Raises:
            ClientError: the body is not JSON, or is an empty list.
        """
        try:
            document = orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
        except orjson.JSONDecodeError as error:
            raise ClientError(f"the body is not JSON: {error}") from error
        rows = document if type(document) is list else [document]
        if not rows:
            raise ClientError("expected at least one row, got none")
        return self._write_lines(enumerate(rows, 1))

    def _read_ndjson(self, block: bytes, first: int) -> Iterator[tuple[int, Any]]:
        if first == 1:
            check_text(block)
            block = block.removeprefix(BYTE_ORDER_MARK)
        for number, line in enumerate(block.split(b"\n"), first):
            if line.strip():
                try:
                    yield number, orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    reason = str(error).partition(": line 1 ")[0]
                    self._refuse(number, f"not JSON: {reason}")

    def _read_csv(self, block: bytes, first: int) -> Iterator[tuple[int, Any]]:
        if self._columns is None:
            check_text(block)
            block = block.removeprefix(BYTE_ORDER_MARK)
        records = read_records(
            self._lines,
            decode_block(block, first),
            first,
            self._separator,
            skip_spaces=False,
            is_last=self._is_last,
        )
        for cells, number in records:
            if self._columns is None:
                self._columns = _read_header(cells, number)
            elif len(cells) != len(self._columns):
                message = f"expected {len(self._columns)} cells as in the header"
                self._refuse(number, f"{message}, got {len(cells)}")
            else:
                named = zip(self._columns, map(str.strip, cells), strict=True)
                yield number, {name: cell for name, cell in named if cell}

    def _write_lines(self, rows: Iterable[tuple[int, Any]]) -> Iterator[bytes]:
        lines: list[bytes] = []
        failure: ClientError | None = None
        try:
            for number, row in rows:
                try:
                    lines.append(self._log_line(row))
                except ValueError as error:
                    self._refuse(number, str(error))
                if len(lines) == ROWS_PER_BATCH:
                    yield self._accept(lines)
                    lines = []
        except ClientError as error:
            failure = error  # accept the rows before it
        if lines:
            yield self._accept(lines)
        if failure is not None:
            raise failure

    def _accept(self, lines: list[bytes]) -> bytes:
        self.accepted += len(lines)
        return b"".join(lines)

    def _log_line(self, row: Any) -> bytes:
        """Return the log's line for a row.

        Raises:
            ValueError: the row is invalid; the message has the field, the value and what is
                expected.
        """
        if type(row) is not dict:
            raise ValueError(f"expected an object with id and label, got {describe(row)}")
        if not row.keys() <= _FIELD_SET:
            unknown = min(row.keys() - _FIELD_SET)
            raise ValueError(f'unknown field "{unknown[:100]}"; expected {", ".join(FIELDS)}')
        prediction_id, time = row.get("id"), row.get("time")
        if type(prediction_id) is not str or not is_id(prediction_id):
            raise ValueError(
                f"id: expected the prediction's X-Prediction-ID, got {describe(prediction_id)}"
            )
        return orjson.dumps(
            {
                "format": FORMAT,
                "id": prediction_id,
                "row": _read_row(row.get("row", 0)),
                "label": self._read_label(row.get("label")),
                "time": self._now if time is None else _read_time(time),
                "received": self._now,
                "caller": self._caller,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )

    def _read_label(self, value: Any) -> str:
        """Return the class name that a label stands for; 1, 1.0 and "1" are the same label."""
        class_name = self._labels.get(value) if type(value) is str else None
        if class_name is not None:
            return class_name
        text = _label_text(value)
        if text is None or (self._class_names and text not in self._labels):
            expected = f"one of {', '.join(self._class_names)}" if self._class_names else "a label"
            raise ValueError(f"label: expected {expected}, got {describe(value)}")
        return self._labels.get(text, text)

    def _refuse(self, number: int, message: str) -> None:
        self.refused += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"line": number, "error": message})


def _format_time(moment: datetime) -> str:
    """Return a time in the log's format: ISO 8601 in UTC, with milliseconds."""
    text = moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _read_header(cells: Iterable[str], line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if name not in FIELDS or names.count(name) > 1:
            problem = "duplicate" if name in FIELDS else "unknown"
            raise ClientError(
                f'line {line}: {problem} column "{name[:100]}"; expected {", ".join(FIELDS)}'
            )
    for name in ("id", "label"):
        if name not in names:
            raise ClientError(f'line {line}: column "{name}" is missing')
    return names


def _read_row(value: Any) -> int:
    is_number = type(value) is str and value.isascii() and value.isdigit()
    number = int(value) if is_number and len(value) <= len(str(MAX_ROW)) else value
    if type(number) is not int or not 0 <= number <= MAX_ROW:
        raise ValueError(f"row: expected an integer from 0 to {MAX_ROW}, got {describe(value)}")
    return number


def _label_text(value: Any) -> str | None:
    if type(value) is bool:
        return str(value).lower()
    if type(value) not in (str, int, float):
        return None
    text = str(value).strip()
    if not text:
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    match = WHOLE_NUMBER.fullmatch(text)
    return match[1] if match else text


def _read_time(value: Any) -> str:
    days = parse_days(value.strip()) if type(value) is str else None
    if days is None:
        raise ValueError(f"time: expected {EXPECTED}, got {describe(value)}")
    try:
        return _format_time(EPOCH + timedelta(days=days))
    except OverflowError:
        raise ValueError(f"time: expected {EXPECTED}, got {describe(value)}") from None


def counts(reader: FeedbackReader) -> Mapping[str, Any]:
    """Return the counts and the first errors, for a response."""
    return {"accepted": reader.accepted, "refused": reader.refused, "errors": reader.errors}
