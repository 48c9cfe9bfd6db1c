"""JSON to arrays and back: the row form and the column form of TensorFlow Serving's dialect.

Row form, `{"instances": [row, …]}`: a row is an object with a value for each input, or a plain
value for the only input, or a list with the columns' values in the order of the trained table.
Column form, `{"inputs": {name: values, …}}`: all rows of an input together, or plain values for
the only input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.errors import ClientError
from client.json_arrays import Place, is_b64, kind_of, to_array, to_json
from client.schema import (
    DEFAULT_SIGNATURE,
    DENSE,
    DENSE_INPUT,
    Schema,
    Signature,
)
from client.tensors import Array, dtype_name

EXPECTED = (
    'expected {"instances": [row, ...]} or {"inputs": {name: [value, ...], ...}}, '
    'with "signature_name" if another signature than the default is meant'
)
KEYS = ("instances", "inputs", "signature_name")


@dataclass(frozen=True)
class Request:
    """A request as arrays.

    Attributes:
        signature_name: the signature to run.
        inputs: an array for each of its inputs.
        row_form: whether the reply is to be in row form.
    """

    signature_name: str
    inputs: Mapping[str, Array]
    row_form: bool


def read(body: Any, schema: Schema) -> Request:
    """Turn a parsed JSON body into arrays of the signature's dtypes.

    Raises:
        ClientError: it names the field, what came, and what was expected.
    """
    if not isinstance(body, dict):
        raise ClientError(f"the body is {kind_of(body)}; {EXPECTED}")
    unknown = [key for key in body if key not in KEYS]
    if unknown:
        raise ClientError(f'unknown key "{unknown[0]}"; {EXPECTED}')
    if ("instances" in body) == ("inputs" in body):
        both = "both" if "instances" in body else "neither"
        raise ClientError(f'the body has {both} of "instances" and "inputs"; {EXPECTED}')
    name = body.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise ClientError(f"signature_name: expected a string, got {kind_of(name)}")
    signature = schema.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        known = ", ".join(sorted(schema.signatures))
        raise ClientError(f'signature_name: model {schema.model} has no "{name}", it has {known}')
    name = name or DEFAULT_SIGNATURE
    if "inputs" in body:
        return Request(name, _read_columns(body["inputs"], signature), row_form=False)
    rows = _checked_rows(body["instances"])
    dense_order = schema.dense_order(name)
    if dense_order is not None:
        matrix = _read_matrix(rows, signature, dense_order, schema.signatures[DENSE])
        return Request(DENSE, {DENSE_INPUT: matrix}, row_form=True)
    return Request(name, _read_rows(rows, signature, schema.column_order(name)), row_form=True)


def write(outputs: Mapping[str, Array], row_form: bool) -> dict[str, Any]:
    """Return a reply's JSON object, `{"predictions": …}` or `{"outputs": …}`.

    Raises:
        ClientError: the outputs have no common number of rows, so only column form can tell them.
    """
    columns = {name: to_json(name, array) for name, array in sorted(outputs.items())}
    if not row_form:
        return {"outputs": columns if len(columns) != 1 else next(iter(columns.values()))}
    lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(lengths) != 1 or None in lengths:
        raise ClientError(
            "the outputs do not have one value for each instance; "
            'ask with "inputs" in place of "instances"'
        )
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {
        "predictions": [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    }


def _checked_rows(rows: Any) -> list[Any]:
    if not isinstance(rows, list):
        raise ClientError(f"instances: expected a list of rows, got {kind_of(rows)}")
    if not rows:
        raise ClientError("instances: expected at least one row, got an empty list")
    return rows


def _read_matrix(
    rows: list[Any], signature: Signature, order: tuple[str, ...], dense: Signature
) -> Array:
    """Read rows as one matrix with the columns in order."""
    if isinstance(rows[0], dict):
        _check_objects(rows, signature)
        rows = [[row[name] for name in order] for row in rows]
    else:
        _check_lists(rows, order)

    def place(index: tuple[int, ...]) -> str:
        row, column = index
        return f"instances[{row}].{order[column]}"

    return to_array(rows, dense.inputs[DENSE_INPUT], place)


def _read_rows(
    rows: list[Any], signature: Signature, order: tuple[str, ...] | None
) -> dict[str, Array]:
    if isinstance(rows[0], dict) and not is_b64(rows[0]):
        _check_objects(rows, signature)
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
            f"instances[0]: expected an object with {_listing(signature.inputs)}, "
            f"got {kind_of(rows[0])}"
        )
    plain = columns.get(next(iter(signature.inputs), "")) is rows

    def place(name: str) -> Place:
        def at(index: tuple[int, ...]) -> str:
            if not index:
                return "instances" if plain else f"instances, {name}"
            row, *rest = index
            inner = "" if plain else f".{name}"
            return f"instances[{row}]{inner}" + "".join(f"[{i}]" for i in rest)

        return at

    return {
        name: to_array(values, signature.inputs[name], place(name))
        for name, values in columns.items()
    }


def _check_objects(rows: list[Any], signature: Signature) -> None:
    wanted = signature.inputs.keys()
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ClientError(
                f"instances[{index}]: expected an object like instances[0], got {kind_of(row)}"
            )
        if row.keys() != wanted:
            unknown = sorted(row.keys() - wanted)
            if unknown:
                raise ClientError(
                    f'instances[{index}]: unknown column "{unknown[0]}"; '
                    f"the columns are {_listing(wanted)}"
                )
            missing = sorted(wanted - row.keys())
            spec = signature.inputs[missing[0]]
            of = f", the first of {len(missing)}," if len(missing) > 1 else ""
            raise ClientError(
                f'instances[{index}]: column "{missing[0]}" ({dtype_name(spec.dtype)}){of} '
                "is missing"
            )


def _check_lists(rows: list[Any], order: tuple[str, ...]) -> None:
    for index, row in enumerate(rows):
        if not isinstance(row, list):
            raise ClientError(
                f"instances[{index}]: expected an object or a list of {len(order)} values in the "
                f"order {_listing(order)}, got {kind_of(row)}"
            )
        if len(row) != len(order):
            raise ClientError(
                f"instances[{index}]: expected {len(order)} values in the order "
                f"{_listing(order)}, got {len(row)}"
            )


def _read_columns(inputs: Any, signature: Signature) -> dict[str, Array]:
    if not isinstance(inputs, dict) or is_b64(inputs):
        if len(signature.inputs) != 1:
            raise ClientError(
                f"inputs: expected an object with {_listing(signature.inputs)}, "
                f"got {kind_of(inputs)}"
            )
        name = next(iter(signature.inputs))
        return {name: to_array(inputs, signature.inputs[name], _column_place("inputs"))}
    for name in inputs:
        if name not in signature.inputs:
            raise ClientError(
                f'inputs: unknown column "{name}"; the columns are {_listing(signature.inputs)}'
            )
    for name, spec in signature.inputs.items():
        if name not in inputs:
            raise ClientError(f'inputs: column "{name}" ({dtype_name(spec.dtype)}) is missing')
    arrays = {
        name: to_array(inputs[name], spec, _column_place(f"inputs.{name}"))
        for name, spec in signature.inputs.items()
    }
    _check_equal_lengths(arrays, signature)
    return arrays


def _check_equal_lengths(arrays: Mapping[str, Array], signature: Signature) -> None:
    """Columns that are one value a row must have equally many rows."""
    lengths = {
        name: len(array)
        for name, array in arrays.items()
        if signature.inputs[name].shape == (None,)
    }
    if len(set(lengths.values())) > 1:
        (first, length), *others = lengths.items()
        name, other = next((n, m) for n, m in others if m != length)
        raise ClientError(
            f"inputs.{name}: expected {length} values like inputs.{first}, got {other}"
        )


def _column_place(prefix: str) -> Place:
    return lambda index: prefix + "".join(f"[{i}]" for i in index)


def _listing(names: Any) -> str:
    return ", ".join(names)
