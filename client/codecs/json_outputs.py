"""Encoding of outputs as JSON, in row form and column form.

Whole arrays are encoded at once, floats with the shortest digits that identify them in their own
type, and rows are joined from the pieces. NaN and infinities become null, since JSON has neither.
Strings that are not UTF-8, and outputs whose name ends in `_bytes`, become `{"b64": "..."}`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from client.serving.tensors import Array

# With fewer values, finding the distinct ones takes longer than encoding all.
MIN_DISTINCT = 10


def write_rows(outputs: Mapping[str, Array], tail: bytes = b"") -> bytes:
    """Return `{"predictions": [row, …]}`; rows are objects, or plain values of the only output.

    Args:
        outputs: at least one, all with the same number of rows.
        tail: further members of the object, each preceded by a comma.
    """
    names = sorted(outputs)
    if len(names) == 1:
        values = _encode_array(names[0], outputs[names[0]])
        return b"".join((b'{"predictions":', values, tail, b"}"))
    count = len(outputs[names[0]])
    if not count:
        return b"".join((b'{"predictions":[]', tail, b"}"))
    if count == 1:
        row = {name: _single_value(name, outputs[name]) for name in names}
        body = orjson.dumps({"predictions": [row]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return b"".join((body[:-1], tail, b"}")) if tail else body
    # For each output a row has two pieces: the text before the value, and the value.
    width = 2 * len(names)
    pieces = [b""] * (count * width)
    opening = b"},{"
    for index, name in enumerate(names):
        pieces[2 * index :: width] = [opening + orjson.dumps(name) + b":"] * count
        pieces[2 * index + 1 :: width] = encode_column(name, outputs[name])
        opening = b","
    pieces[0] = b'{"predictions":[' + pieces[0][2:]
    return b"".join((*pieces, b"}]", tail, b"}"))


def encode_rows(outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON of each row: an object, or the plain value of the only output.

    Args:
        outputs: at least one, all with the same number of rows.
    """
    if len(outputs) == 1:
        return encode_column(*next(iter(outputs.items())))
    return encode_objects(dict(sorted(outputs.items())))


def encode_objects(outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON of each row as an object.

    Args:
        outputs: at least one, all with the same number of rows.
    """
    columns = [encode_column(name, array) for name, array in outputs.items()]
    keys = [orjson.dumps(name).replace(b"%", b"%%") for name in outputs]
    template = b"{" + b",".join(key + b":%b" for key in keys) + b"}"
    return [template % values for values in zip(*columns, strict=True)]


def write_columns(outputs: Mapping[str, Array], tail: bytes = b"") -> bytes:
    """Return `{"outputs": {name: values, …}}`, or only the values if there is one output.

    Args:
        outputs: at least one.
        tail: further members of the object, each preceded by a comma.
    """
    names = sorted(outputs)
    if len(names) == 1:
        values = _encode_array(names[0], outputs[names[0]])
    else:
        columns = [orjson.dumps(name) + b":" + _encode_array(name, outputs[name]) for name in names]
        values = b"{" + b",".join(columns) + b"}"
    return b"".join((b'{"outputs":', values, tail, b"}"))


def _encode_array(name: str, array: Array) -> bytes:
    """Return the JSON of an output's values."""
    if array.dtype.hasobject:
        return orjson.dumps(_decode_array(name, array))
    if not array.ndim:
        return orjson.dumps(array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_column(name: str, array: Array) -> list[bytes]:
    """Return the JSON of each row's value.

    Args:
        name: the output's name.
        array: its values, of at least one dimension and of a type that has a JSON form.
    """
    if array.dtype.hasobject:
        if array.ndim > 1:
            return [orjson.dumps(text) for text in _decode_array(name, array)]
        values = array.tolist()
        if len(values) < MIN_DISTINCT:
            return [orjson.dumps(text) for text in _decode_strings(name, values)]
        # Labels have few distinct values.
        distinct = list(set(values))
        texts = dict(zip(distinct, map(orjson.dumps, _decode_strings(name, distinct)), strict=True))
        return [texts[value] for value in values]
    if not array.size:
        return [orjson.dumps(row) for row in array.tolist()]
    values, depth = _encode_array(name, array)[1:-1], array.ndim - 1
    if depth:
        closing, opening = b"]" * depth, b"[" * depth
        values = values.replace(closing + b"," + opening, closing + b"\n" + opening)
        return values.split(b"\n")
    return values.split(b",")


def _single_value(name: str, array: Array) -> Any:
    """Return the only row's value in a form that orjson can write."""
    if not array.dtype.hasobject:
        return array[0] if array.ndim == 1 else np.ascontiguousarray(array[0])
    return _decode_array(name, array)[0]


def _decode_array(name: str, array: Array) -> Any:
    """Return strings in a form that orjson can write, nested like the array."""
    texts = _decode_strings(name, array.reshape(-1).tolist())
    if array.ndim == 1:
        return texts
    # The None keeps numpy from treating values as sequences.
    return np.array([*texts, None], object)[:-1].reshape(array.shape).tolist()


def _decode_strings(name: str, values: list[bytes]) -> list[Any]:
    """Return each string in a form that orjson can write."""
    if name.endswith("_bytes"):
        return list(map(_encode_base64, values))
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        return list(map(decode_string, values))


def decode_string(value: bytes) -> str | dict[str, str]:
    """Return a string in a form that orjson can write."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _encode_base64(value)


def _encode_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}
