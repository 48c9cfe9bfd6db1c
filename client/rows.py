"""JSON to arrays and back: the row form and the column form of TensorFlow Serving's dialect.

Row form, `{"instances": [row, …]}`: a row is an object with a value for each input, or a plain
value for the only input, or a list with the columns' values in the order of the trained table.
Column form, `{"inputs": {name: values, …}}`: all rows of an input together, or plain values for
the only input. Strings that are not text travel as `{"b64": "…"}`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from client.errors import ClientError
from client.schema import (
    DEFAULT_SIGNATURE,
    DENSE,
    DENSE_INPUT,
    Schema,
    Signature,
    TensorSpec,
)
from client.tensors import DTYPES, STRING, Array, dtype_name

EXPECTED = (
    'expected {"instances": [row, ...]} or {"inputs": {name: [value, ...], ...}}, '
    'with "signature_name" if another signature than the default is meant'
)
KEYS = ("instances", "inputs", "signature_name")

Place = Callable[[tuple[int, ...]], str]


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
        raise ClientError(f"the body is {_kind(body)}; {EXPECTED}")
    unknown = [key for key in body if key not in KEYS]
    if unknown:
        raise ClientError(f'unknown key "{unknown[0]}"; {EXPECTED}')
    if ("instances" in body) == ("inputs" in body):
        both = "both" if "instances" in body else "neither"
        raise ClientError(f'the body has {both} of "instances" and "inputs"; {EXPECTED}')
    name = body.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise ClientError(f"signature_name: expected a string, got {_kind(name)}")
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

    Numbers stay numpy's, so that a float32 is written with a float32's digits.

    Raises:
        ClientError: the outputs have no common number of rows, so only column form can tell them.
    """
    columns = {name: _json_values(name, array) for name, array in sorted(outputs.items())}
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
        raise ClientError(f"instances: expected a list of rows, got {_kind(rows)}")
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
    if isinstance(rows[0], dict) and not _is_b64(rows[0]):
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
            f"got {_kind(rows[0])}"
        )
    plain = columns.get(next(iter(signature.inputs), "")) is rows

    def place(name: str) -> Place:
        def at(index: tuple[int, ...]) -> str:
            row, *rest = index or (0,)
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
                f"instances[{index}]: expected an object like instances[0], got {_kind(row)}"
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
                f"order {_listing(order)}, got {_kind(row)}"
            )
        if len(row) != len(order):
            raise ClientError(
                f"instances[{index}]: expected {len(order)} values in the order "
                f"{_listing(order)}, got {len(row)}"
            )


def _read_columns(inputs: Any, signature: Signature) -> dict[str, Array]:
    if not isinstance(inputs, dict) or _is_b64(inputs):
        if len(signature.inputs) != 1:
            raise ClientError(
                f"inputs: expected an object with {_listing(signature.inputs)}, got {_kind(inputs)}"
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


def to_array(values: Any, spec: TensorSpec, place: Place) -> Array:
    """Turn nested lists into an array of a signature's dtype and shape.

    Args:
        values: a value, or lists of lists of values.
        spec: the input they are for.
        place: says where in the request the element with an index stands.

    Raises:
        ClientError: a value has the wrong type, lists are of unequal length, or the shape is wrong.
    """
    shape: list[int] = []
    level: list[Any] = [values]
    rank = len(spec.shape) if spec.shape is not None else None
    while level and isinstance(level[0], list) and len(shape) != rank:
        lengths = set(map(len, level)) if all(type(v) is list for v in level) else set()
        if len(lengths) != 1:
            raise _uneven(level, shape, place)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.kind == "c":
        raise ClientError(f"{place(())}: values of {dtype_name(spec.dtype)} have no JSON form", 501)
    flat = _flat(level, spec.dtype, shape, place)
    _check_shape(tuple(shape), spec, place)
    return flat.reshape(shape)


def _flat(level: list[Any], dtype: int, shape: Sequence[int], place: Place) -> Array:
    """Check the types of the values and put them into a flat array."""

    def fail(index: int, expected: str) -> ClientError:
        where = tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()
        return ClientError(f"{place(where)}: expected {expected}, got {_kind(level[index])}")

    numpy_dtype = DTYPES[dtype]
    types = set(map(type, level))
    if dtype == STRING:
        flat = np.empty(len(level), object)
        for index, value in enumerate(level):
            text = _string(value)
            if text is None:
                raise fail(index, 'a string or {"b64": "..."}')
            flat[index] = text
        return flat
    allowed, expected = _ALLOWED[numpy_dtype.kind]
    if not types <= allowed:
        raise fail(next(i for i, v in enumerate(level) if type(v) not in allowed), expected)
    try:
        return np.array(level, numpy_dtype)
    except OverflowError:
        limits = np.iinfo(numpy_dtype)
        index = next(i for i, v in enumerate(level) if not limits.min <= v <= limits.max)
        raise fail(index, f"an integer from {limits.min} to {limits.max}") from None


_ALLOWED: dict[str, tuple[set[type], str]] = {
    "f": ({int, float}, "a number"),
    "i": ({int}, "an integer"),
    "u": ({int}, "an integer"),
    "b": ({bool}, "true or false"),
}


def _check_shape(shape: tuple[int, ...], spec: TensorSpec, place: Place) -> None:
    if spec.shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise ClientError(f"{place(())}: expected {spec}, got shape {list(shape)}")


def _uneven(level: list[Any], shape: Sequence[int], place: Place) -> ClientError:
    length = len(level[0])
    index = next(i for i, v in enumerate(level) if not isinstance(v, list) or len(v) != length)
    where = tuple(int(i) for i in np.unravel_index(index, shape))
    return ClientError(
        f"{place(where)}: expected a list of {length} values like its neighbours, "
        f"got {_kind(level[index])}"
    )


def _string(value: Any) -> bytes | None:
    """Return a JSON string's bytes, or None if the value stands for no string."""
    if isinstance(value, str):
        return value.encode()
    if _is_b64(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            return None
    return None


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _json_values(name: str, array: Array) -> Any:
    if array.dtype.kind == "c":
        raise ClientError(f"output {name}: values of {array.dtype.name} have no JSON form", 501)
    if array.dtype != np.object_:
        return list(array) if array.ndim == 1 else array
    as_b64 = name.endswith("_bytes")
    texts = [_json_string(value, as_b64) for value in array.reshape(-1).tolist()]
    return np.array([*texts, None], object)[:-1].reshape(array.shape).tolist()


def _json_string(value: bytes, as_b64: bool) -> str | dict[str, str]:
    if not as_b64:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass  # not text, so it has to travel as the protocol's binary form
    return {"b64": base64.b64encode(value).decode()}


def _kind(value: Any) -> str:
    """Say what a JSON value is, short enough for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'the string "{value[:40]}"' + ("..." if len(value) > 40 else "")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return str(value)


def _listing(names: Any) -> str:
    return ", ".join(names)
