"""Outputs to JSON in row form and column form.

Whole arrays are encoded at once, floats with the shortest digits of their own type, and rows are
joined from the pieces. NaN and infinities become null, since JSON has neither. Strings that are not
UTF-8, and outputs whose name ends in `_bytes`, are written as `{"b64": "..."}`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from client.serving.tensors import Array

# For fewer values, finding the distinct ones takes longer than encoding all.
MIN_DISTINCT = 10


def write_rows(outputs: Mapping[str, Array], tail: bytes = b"") -> bytes:
    """Return `{"predictions": [row, …]}`; rows are objects, or plain values of the only output.

    Args:
        outputs: at least one, all with the same number of rows.
        tail: further members of the object, each after a comma.
    """
    names = sorted(outputs)
    if len(names) == 1:
        values = _whole(names[0], outputs[names[0]])
        return b"".join((b'{"predictions":', values, tail, b"}"))
    count = len(outputs[names[0]])
    if not count:
        return b"".join((b'{"predictions":[]', tail, b"}"))
    if count == 1:
        row = {name: _only(name, outputs[name]) for name in names}
        whole = orjson.dumps({"predictions": [row]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return b"".join((whole[:-1], tail, b"}")) if tail else whole
    # For each output a row has two pieces: the text before the value, and the value.
    width = 2 * len(names)
    pieces = [b""] * (count * width)
    before = b"},{"
    for place, name in enumerate(names):
        pieces[2 * place :: width] = [before + orjson.dumps(name) + b":"] * count
        pieces[2 * place + 1 :: width] = each_row(name, outputs[name])
        before = b","
    pieces[0] = b'{"predictions":[' + pieces[0][2:]
    return b"".join((*pieces, b"}]", tail, b"}"))


def row_texts(outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON of each row: an object, or the plain value of the only output.

    Args:
        outputs: at least one, all with the same number of rows.
    """
    if len(outputs) == 1:
        return each_row(*next(iter(outputs.items())))
    return object_texts(dict(sorted(outputs.items())))


def object_texts(outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON of each row as an object.

    Args:
        outputs: at least one, all with the same number of rows.
    """
    columns = [each_row(name, array) for name, array in outputs.items()]
    keys = [orjson.dumps(name).replace(b"%", b"%%") for name in outputs]
    form = b"{" + b",".join(key + b":%b" for key in keys) + b"}"
    return [form % values for values in zip(*columns, strict=True)]


def write_columns(outputs: Mapping[str, Array], tail: bytes = b"") -> bytes:
    """Return `{"outputs": {name: values, …}}`, or only the values if there is one output.

    Args:
        outputs: at least one.
        tail: further members of the object, each after a comma.
    """
    names = sorted(outputs)
    if len(names) == 1:
        values = _whole(names[0], outputs[names[0]])
    else:
        columns = [orjson.dumps(name) + b":" + _whole(name, outputs[name]) for name in names]
        values = b"{" + b",".join(columns) + b"}"
    return b"".join((b'{"outputs":', values, tail, b"}"))


def _whole(name: str, array: Array) -> bytes:
    """Return an output's values as JSON."""
    if array.dtype.hasobject:
        return orjson.dumps(_texts(name, array))
    if not array.ndim:
        return orjson.dumps(array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def each_row(name: str, array: Array) -> list[bytes]:
    """Return the JSON of each row's value.

    Args:
        name: the output's name.
        array: at least one dimension; of a type that has a JSON form.
    """
    if array.dtype.hasobject:
        if array.ndim > 1:
            return [orjson.dumps(text) for text in _texts(name, array)]
        values = array.tolist()
        if len(values) < MIN_DISTINCT:
            return [orjson.dumps(text) for text in _written(name, values)]
        # Labels have few distinct values.
        known = list(set(values))
        texts = dict(zip(known, map(orjson.dumps, _written(name, known)), strict=True))
        return [texts[value] for value in values]
    if not array.size:
        return [orjson.dumps(row) for row in array.tolist()]
    values, inner = _whole(name, array)[1:-1], array.ndim - 1
    if inner:
        closing, opening = b"]" * inner, b"[" * inner
        values = values.replace(closing + b"," + opening, closing + b"\n" + opening)
        return values.split(b"\n")
    return values.split(b",")


def _only(name: str, array: Array) -> Any:
    """Return the only row's value in a form that orjson can write."""
    if not array.dtype.hasobject:
        return array[0] if array.ndim == 1 else np.ascontiguousarray(array[0])
    return _texts(name, array)[0]


def _texts(name: str, array: Array) -> Any:
    """Return strings in a form that orjson can write, nested like the array's dimensions."""
    texts = _written(name, array.reshape(-1).tolist())
    if array.ndim == 1:
        return texts
    # The None keeps numpy from treating values as sequences.
    return np.array([*texts, None], object)[:-1].reshape(array.shape).tolist()


def _written(name: str, values: list[bytes]) -> list[Any]:
    """Return each string in a form that orjson can write."""
    if name.endswith("_bytes"):
        return list(map(_b64, values))
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        return list(map(json_string, values))


def json_string(value: bytes) -> str | dict[str, str]:
    """Return a string in a form that orjson can write."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _b64(value)


def _b64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}
