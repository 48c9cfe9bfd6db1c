"""The project's own dialect: TensorFlow Serving's row and column form, with readable errors.

Row form, `{"instances": [row, …]}`: a row is an object with a value for each input, a plain value
for the only input, or a list of values in the column order of the training table. Column form,
`{"inputs": {name: values, …}}`: the values of each input for all rows, or plain values for the only
input.

Null is a missing value. So is an absent key of a row, if training had missing values there.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from client.codecs import lenient_json
from client.codecs.batches import Call
from client.codecs.json import fast
from client.codecs.json.arrays import Locator, describe, is_b64, to_array
from client.codecs.json.calls import JsonCall
from client.codecs.json_outputs import write_columns, write_rows
from client.codecs.lenient_json import JsonError
from client.codecs.signatures import find_signature
from client.errors import ClientError
from client.serving.schema import (
    DEFAULT_SIGNATURE,
    DENSE,
    DENSE_INPUT,
    Column,
    Schema,
    Signature,
)
from client.serving.tensors import Array, dtype_name

EXPECTED = (
    'expected {"instances": [row, ...]} or {"inputs": {name: [value, ...], ...}}, '
    'and "signature_name" for a signature other than the default'
)
KEYS = ("instances", "inputs", "signature_name", "threshold")

# The model's descriptions of the columns of each input.
ColumnsByInput = Mapping[str, Sequence[Column]]


def read(body: bytes, schema: Schema) -> JsonCall:
    """Read the body of a predict request.

    Args:
        body: JSON.
        schema: schema of the requested version.

    Raises:
        ClientError: the body is invalid; the message has the field, the value and what is
            expected.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    return fast.read(body, schema) or read_document(parse_body(body), schema)


def read_document(body: Any, schema: Schema) -> JsonCall:
    """Decode a parsed body.

    Raises:
        ClientError: the body is invalid; the message has the field, the value and what is
            expected.
    """
    if not isinstance(body, dict):
        raise ClientError(f"the body is {describe(body)}; {EXPECTED}")
    unknown = [key for key in body if key not in KEYS]
    if unknown:
        raise ClientError(f'unknown key "{unknown[0][:100]}"; {EXPECTED}')
    if ("instances" in body) == ("inputs" in body):
        both = "both" if "instances" in body else "neither"
        raise ClientError(f'the body has {both} of "instances" and "inputs"; {EXPECTED}')
    threshold = _read_threshold(body)
    name, signature = find_signature(schema, body.get("signature_name", DEFAULT_SIGNATURE))
    columns_by_input = schema.input_columns.get(name, {})
    if "inputs" in body:
        columns = _read_columns(body["inputs"], signature, columns_by_input)
        return JsonCall(Call(name, columns), False, threshold)
    rows = _check_rows(body["instances"])
    dense_order = schema.dense_order(name)
    if dense_order is not None:
        matrix = _read_matrix(rows, schema, dense_order)
        return JsonCall(Call(DENSE, {DENSE_INPUT: matrix}), True, threshold)
    order = schema.column_order(name)
    return JsonCall(
        Call(name, _read_rows(rows, signature, order, columns_by_input)), True, threshold
    )


def write(outputs: Mapping[str, Array], *, row_form: bool, tail: bytes = b"") -> bytes:
    """Return the body of the response, `{"predictions": ...}` or `{"outputs": ...}`.

    Args:
        outputs: the model's outputs.
        row_form: whether the request was in row form.
        tail: further members of the object, each preceded by a comma.

    Raises:
        ClientError: an output has no JSON form, or in row form the row counts differ.
    """
    check_types(outputs)
    if not row_form:
        return write_columns(outputs, tail)
    lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(lengths) != 1 or None in lengths:
        raise ClientError(
            "the outputs do not have one value for each instance; "
            'send "inputs" instead of "instances"'
        )
    return write_rows(outputs, tail)


def check_types(outputs: Mapping[str, Array]) -> None:
    """Raise an error if an output has no JSON form."""
    for name, array in outputs.items():
        if array.dtype.kind == "c":
            raise ClientError(f"output {name}: values of {array.dtype.name} have no JSON form", 501)


def parse_body(body: bytes) -> Any:
    """Parse a request body.

    Raises:
        ClientError: the body is empty or not JSON, or an object has a duplicate key.
    """
    if not body.strip():
        raise ClientError(f"the body is empty; {EXPECTED}")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ClientError(f"the body is not JSON: {error}; {EXPECTED}") from error
    check_keys(document, body)
    return document


def check_keys(document: Any, body: bytes) -> None:
    """Check for duplicate keys, of which orjson keeps the last.

    Raises:
        ClientError: an object has a duplicate key.
    """
    if fast.has_duplicate_keys(document, body):
        with suppress(JsonError):
            lenient_json.loads(body.decode(), _check_members)
        raise ClientError("an object has a duplicate key")


def _check_members(members: list[tuple[str, Any]]) -> None:
    for key, count in Counter(key for key, _ in members).items():
        if count > 1:
            raise ClientError(f'duplicate key "{key[:100]}"')


def _read_threshold(body: Mapping[str, Any]) -> float | None:
    if "threshold" not in body:
        return None
    value = body["threshold"]
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ClientError(f"threshold: expected a number from 0 to 1, got {describe(value)}")
    return float(value)


def _check_rows(rows: Any) -> list[Any]:
    if not isinstance(rows, list):
        raise ClientError(f"instances: expected a list of rows, got {describe(rows)}")
    if not rows:
        raise ClientError("instances: expected at least one row, got an empty list")
    return rows


def _read_matrix(rows: list[Any], schema: Schema, order: tuple[str, ...]) -> Array:
    """Read rows as one matrix with a given column order."""
    if isinstance(rows[0], dict):
        columns_by_input = schema.input_columns[DEFAULT_SIGNATURE]
        rows = _complete_rows(rows, schema.signatures[DEFAULT_SIGNATURE], columns_by_input)
        rows = [[row[name] for name in order] for row in rows]
    elif len(order) == 1 and not any(type(row) is list for row in rows):
        rows = [[value] for value in rows]
    else:
        _check_lists(rows, order)

    def locate(index: tuple[int, ...]) -> str:
        row, column = index
        return f"instances[{row}].{order[column]}"

    spec = schema.signatures[DENSE].inputs[DENSE_INPUT]
    return to_array(rows, spec, locate, schema.input_columns[DENSE][DENSE_INPUT])


def _read_rows(
    rows: list[Any],
    signature: Signature,
    order: tuple[str, ...] | None,
    columns_by_input: ColumnsByInput,
) -> dict[str, Array]:
    if isinstance(rows[0], dict) and not is_b64(rows[0]):
        rows = _complete_rows(rows, signature, columns_by_input)
        columns = {name: [row[name] for row in rows] for name in signature.inputs}
    elif len(signature.inputs) == 1:
        columns = {next(iter(signature.inputs)): rows}
    elif order is not None:
        _check_lists(rows, order)
        columns = {
            name: list(values) for name, values in zip(order, zip(*rows, strict=True), strict=True)
        }
    else:
        raise ClientError(
            f"instances[0]: expected an object with {_join_names(signature.inputs)}, "
            f"got {describe(rows[0])}"
        )
    is_plain = columns.get(next(iter(signature.inputs), "")) is rows

    def locator(name: str) -> Locator:
        def locate(index: tuple[int, ...]) -> str:
            if not index:
                return "instances" if is_plain else f"instances, {name}"
            row, *inner = index
            column = "" if is_plain else f".{name}"
            return f"instances[{row}]{column}" + "".join(f"[{i}]" for i in inner)

        return locate

    return {
        name: to_array(
            values, signature.inputs[name], locator(name), columns_by_input.get(name, ())
        )
        for name, values in columns.items()
    }


def _complete_rows(
    rows: list[Any], signature: Signature, columns_by_input: ColumnsByInput
) -> list[dict[str, Any]]:
    """Check the keys of each row, and add null for absent values that may be missing."""
    names = signature.inputs.keys()
    completed = rows
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ClientError(
                f"instances[{index}]: expected an object like instances[0], got {describe(row)}"
            )
        if row.keys() != names:
            unknown = [name for name in row if name not in names]
            if unknown:
                raise ClientError(
                    f'instances[{index}]: unknown column "{unknown[0][:100]}"; '
                    f"the columns are {_join_names(names)}"
                )
            absent = [name for name in names if name not in row]
            missing = [name for name in absent if not _may_be_missing(name, columns_by_input)]
            if missing:
                spec = signature.inputs[missing[0]]
                and_more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise ClientError(
                    f'instances[{index}]: column "{missing[0]}" ({dtype_name(spec.dtype)})'
                    f" is missing{and_more}"
                )
            if completed is rows:
                completed = list(rows)  # the request may be decoded again, for another version
            completed[index] = {**row, **dict.fromkeys(absent)}
    return completed


def _may_be_missing(name: str, columns_by_input: ColumnsByInput) -> bool:
    columns = columns_by_input.get(name, ())
    return bool(columns) and all(column.missing for column in columns)


def _check_lists(rows: list[Any], order: tuple[str, ...]) -> None:
    for index, row in enumerate(rows):
        if not isinstance(row, list):
            raise ClientError(
                f"instances[{index}]: expected an object or a list of {len(order)} values in the "
                f"order {_join_names(order)}, got {describe(row)}"
            )
        if len(row) != len(order):
            raise ClientError(
                f"instances[{index}]: expected {len(order)} values in the order "
                f"{_join_names(order)}, got {len(row)}"
            )


def _read_columns(
    inputs: Any, signature: Signature, columns_by_input: ColumnsByInput
) -> dict[str, Array]:
    if not isinstance(inputs, dict) or is_b64(inputs):
        if len(signature.inputs) != 1:
            raise ClientError(
                f"inputs: expected an object with {_join_names(signature.inputs)}, "
                f"got {describe(inputs)}"
            )
        name = next(iter(signature.inputs))
        locate, columns = _column_locator("inputs"), columns_by_input.get(name, ())
        return {name: to_array(inputs, signature.inputs[name], locate, columns)}
    for name in inputs:
        if name not in signature.inputs:
            raise ClientError(
                f'inputs: unknown column "{name[:100]}"; '
                f"the columns are {_join_names(signature.inputs)}"
            )
    for name, spec in signature.inputs.items():
        if name not in inputs:
            raise ClientError(f'inputs: column "{name}" ({dtype_name(spec.dtype)}) is missing')
    arrays = {
        name: to_array(
            inputs[name], spec, _column_locator(f"inputs.{name}"), columns_by_input.get(name, ())
        )
        for name, spec in signature.inputs.items()
    }
    _check_equal_lengths(arrays, signature)
    return arrays


def _check_equal_lengths(arrays: Mapping[str, Array], signature: Signature) -> None:
    """Raise an error if columns with one value per row differ in length."""
    lengths = {
        name: len(array)
        for name, array in arrays.items()
        if signature.inputs[name].shape == (None,)
    }
    if len(set(lengths.values())) > 1:
        (first, length), *others = lengths.items()
        name, other_length = next((n, m) for n, m in others if m != length)
        raise ClientError(
            f"inputs.{name}: expected {length} values like inputs.{first}, got {other_length}"
        )


def _column_locator(prefix: str) -> Locator:
    return lambda index: prefix + "".join(f"[{i}]" for i in index)


def _join_names(names: Any) -> str:
    return ", ".join(names)
