"""Files of rows to files of predictions, in calls of bounded size."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
import orjson

from client import rows as json_rows
from client.deadlines import Deadline
from client.dialects import Call
from client.errors import ClientError
from client.json_arrays import NEVER_MISSING
from client.model_server import AsyncModelServer, Target
from client.predictor import Predictor
from client.schema import DEFAULT_SIGNATURE, Column, Schema, TensorSpec
from client.settings import Settings
from client.tensors import DTYPES, STRING, dtype_name

ROWS_PER_CALL = 1000
BYTE_ORDER_MARK = "\ufeff"
# Python's own float() also takes nan, inf, 1_000 and digits of any script.
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# As in the tables that the training job reads.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


async def predict_file(
    target: Target, path: Path, file_format: str | None, settings: Settings
) -> None:
    """Predict a file's rows and write the answer to standard output, in the same form.

    Args:
        target: the model, and the version if one is asked for.
        path: the file; `-` is standard input.
        file_format: csv or json; None tells it by the file's name, or else its first character.
        settings: for the model server and the timeout of each call.

    Raises:
        ClientError: a row is wrong, or the server cannot answer; the message names the line.
        OSError: the file cannot be read.
    """
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    text = text.removeprefix(BYTE_ORDER_MARK)
    options: dict[str, Any] = {}
    timeout = settings.timeout
    async with (
        AsyncModelServer(settings.server, timeout=timeout, tls=settings.tls) as server,
        Predictor(server) as predictor,
    ):
        if (file_format or _guess_format(path, text)) == "json":
            (rows, options), numbers, write = _json_rows(text), None, _write_json
        else:
            schema = await predictor.schema(target, Deadline(timeout))
            rows, numbers = _csv_rows(text, schema)
            write = _write_csv
        if not rows:
            raise ClientError(f"{path}: expected at least one row, got none")
        answers = _predictions(predictor, target, rows, options, numbers, timeout)
        await write(sys.stdout, answers)


async def _predictions(
    predictor: Predictor,
    target: Target,
    rows: Sequence[Any],
    options: Mapping[str, Any],
    numbers: Sequence[int] | None,
    timeout: float,
) -> AsyncIterator[Any]:
    with click.progressbar(
        length=len(rows), label="predict", file=sys.stderr, hidden=len(rows) <= ROWS_PER_CALL
    ) as bar:
        for start in range(0, len(rows), ROWS_PER_CALL):
            chunk = rows[start : start + ROWS_PER_CALL]
            try:
                answers = await _answer(predictor, target, {**options, "instances": chunk}, timeout)
            except ClientError as error:
                last = start + len(chunk)
                span = f"rows {start + 1} to {last}"
                if numbers is not None:
                    span = f"lines {numbers[start]} to {numbers[last - 1]}"
                raise ClientError(f"{span}: {error.message}", error.status) from error
            for answer in answers:
                yield answer
            bar.update(len(chunk))


async def _answer(
    predictor: Predictor, target: Target, body: Mapping[str, Any], timeout: float
) -> list[Any]:
    def read(schema: Schema) -> Call:
        asked = json_rows.read(body, schema)
        return Call(asked.signature_name, asked.inputs)

    _, prediction = await predictor.answer(target, read, Deadline(timeout))
    predictions: list[Any] = json_rows.write(prediction.outputs, row_form=True)["predictions"]
    return predictions


def _guess_format(path: Path, text: str) -> str:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".json"):
        return suffix[1:]
    return "json" if text.lstrip()[:1] in ("[", "{") else "csv"


def _json_rows(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows, and what else the request says, such as a signature's name."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ClientError(f"not JSON: {error}") from error
    options = {k: v for k, v in body.items() if k != "instances"} if isinstance(body, dict) else {}
    rows = body.get("instances") if isinstance(body, dict) else body
    if not isinstance(rows, list):
        raise ClientError('expected a list of rows or {"instances": [...]}')
    return rows, options


def _csv_rows(text: str, schema: Schema) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the rows as objects of the signature's types, and the line each ends on."""
    signature = schema.signatures.get(DEFAULT_SIGNATURE)
    if signature is None:
        raise ClientError(f"model {schema.model} has no signature {DEFAULT_SIGNATURE}")
    described = schema.described.get(DEFAULT_SIGNATURE, {})
    columns = {name: next(iter(described.get(name, ())), None) for name in signature.inputs}
    reader = csv.DictReader(io.StringIO(text), strict=True)
    rows, numbers = [], []
    try:
        header = list(reader.fieldnames or [])
        _check_header(header, signature.inputs)
        for cells in reader:
            if None in cells or None in cells.values():
                raise ClientError(
                    f"line {reader.line_num}: expected {len(header)} cells like the header"
                )
            rows.append(
                {
                    name: _cell(
                        cells[name],
                        spec,
                        columns[name],
                        f'line {reader.line_num}, column "{name}"',
                    )
                    for name, spec in signature.inputs.items()
                }
            )
            numbers.append(reader.line_num)
    except csv.Error as error:
        # A fault in the first line is met before the line is counted.
        raise ClientError(f"line {max(1, reader.line_num)}: {error}") from error
    return rows, numbers


def _check_header(header: Sequence[str], inputs: Mapping[str, TensorSpec]) -> None:
    for name in header:
        if name not in inputs:
            raise ClientError(
                f'line 1: unknown column "{name}"; the columns are {", ".join(inputs)}'
            )
        if header.count(name) > 1:
            raise ClientError(f'line 1: column "{name}" is there twice')
    missing = [name for name in inputs if name not in header]
    if missing:
        raise ClientError(f'line 1: column "{missing[0]}" is missing')


def _cell(text: str, spec: TensorSpec, column: Column | None, place: str) -> Any:
    """Return the JSON value that a cell stands for; `column` is None if nothing is known of it."""
    word = text if spec.dtype == STRING else text.strip()
    kind = DTYPES[spec.dtype].kind if spec.dtype in DTYPES else ""
    why = ""
    if column is not None and word in MISSING and word not in column.vocabulary:
        if column.missing:
            return None
        why = f"; {NEVER_MISSING}"
    elif spec.dtype == STRING:
        is_boolean = column is not None and bool in column.json_types
        return BOOLEANS.get(text.strip().lower(), text) if is_boolean else text
    elif kind == "b" and word.lower() in BOOLEANS:
        return BOOLEANS[word.lower()]
    elif kind in ("f", "i", "u") and PLAIN_NUMBER.fullmatch(word):
        try:
            return float(word) if kind == "f" else int(word)
        except ValueError:
            pass  # a fraction where an integer belongs
    raise ClientError(f'{place}: expected {dtype_name(spec.dtype)}, got "{text[:40]}"{why}')


async def _write_csv(out: TextIO, predictions: AsyncIterator[Any]) -> None:
    writer = csv.writer(out, lineterminator="\n")
    has_header = False
    async for prediction in predictions:
        row = prediction if isinstance(prediction, dict) else {"prediction": prediction}
        if not has_header:
            writer.writerow(row)
            has_header = True
        writer.writerow(_csv_cell(value) for value in row.values())


def _csv_cell(value: Any) -> Any:
    if isinstance(value, np.ndarray | list | dict):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return value


async def _write_json(out: TextIO, predictions: AsyncIterator[Any]) -> None:
    """Write a list with one prediction a line, as they come."""
    separator = "[\n"
    async for prediction in predictions:
        out.write(separator)
        out.write(orjson.dumps(prediction, option=orjson.OPT_SERIALIZE_NUMPY).decode())
        separator = ",\n"
    out.write("\n]\n")
