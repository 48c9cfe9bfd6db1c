"""Conversion of the Open Inference Protocol's tensors, in JSON or bytes, to arrays and back.

Protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol. In its
binary tensor data extension, values are little-endian and row-major; a string follows its length in
four bytes, and a bfloat16 takes two bytes.

The protocol has no JSON form for strings that are not UTF-8. As in MLServer, a tensor whose
`parameters` have `"content_type": "base64"` holds base64 instead.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from client.codecs.json.arrays import describe, to_array
from client.codecs.json.flat import byte_array, flat_array
from client.errors import ClientError
from client.serving.protos import DataType
from client.serving.schema import TensorSpec
from client.serving.tensors import (
    BFLOAT16,
    DTYPES,
    MAX_RANK,
    STRING,
    Array,
    dtype_name,
    from_bfloat16,
    to_bfloat16,
)

BASE64 = "base64"
BYTES = "BYTES"

_DATATYPES = {
    DataType.Value(name): datatype
    for name, datatype in {
        "DT_BOOL": "BOOL",
        "DT_UINT8": "UINT8",
        "DT_UINT16": "UINT16",
        "DT_UINT32": "UINT32",
        "DT_UINT64": "UINT64",
        "DT_INT8": "INT8",
        "DT_INT16": "INT16",
        "DT_INT32": "INT32",
        "DT_INT64": "INT64",
        "DT_HALF": "FP16",
        "DT_BFLOAT16": "BF16",
        "DT_FLOAT": "FP32",
        "DT_DOUBLE": "FP64",
        "DT_STRING": BYTES,
    }.items()
}
_DATATYPE_OF_ARRAY = {
    DTYPES[dtype]: datatype for dtype, datatype in _DATATYPES.items() if dtype != BFLOAT16
}


def datatype(dtype: int) -> str:
    """Return the protocol's name for a `tensorflow.DataType`; TensorFlow's if it has none."""
    return _DATATYPES.get(dtype) or dtype_name(dtype).upper()


def _describe_spec(spec: TensorSpec) -> str:
    """Return a spec in the protocol's terms: `FP32 [-1, 30]`."""
    if spec.shape is None:
        return f"{datatype(spec.dtype)} of any shape"
    return f"{datatype(spec.dtype)} {[-1 if n is None else n for n in spec.shape]}"


def check_spec(tensor: Mapping[str, Any], spec: TensorSpec, location: str) -> tuple[int, ...]:
    """Check a tensor's datatype and shape, and return the shape.

    Raises:
        ClientError: they are invalid or not supported, or differ from the signature's.
    """
    shape = tensor.get("shape")
    if type(shape) is not list or not set(map(type, shape)) <= {int} or min(shape, default=0) < 0:
        raise ClientError(f"{location}: expected a shape such as [1, 2], got {describe(shape)}")
    name = tensor.get("datatype")
    if name != datatype(spec.dtype) or not spec.accepts(shape):
        got = f"{name} {shape}" if isinstance(name, str) else describe(name)
        raise ClientError(f"{location}: expected {_describe_spec(spec)}, got {got[:100]}")
    if len(shape) > MAX_RANK:
        raise ClientError(f"{location}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
    if spec.dtype not in DTYPES:
        raise ClientError(f"{location}: tensors of {name} cannot be sent to the model server", 501)
    return tuple(shape)


def read_json(
    tensor: Mapping[str, Any], shape: tuple[int, ...], spec: TensorSpec, location: str
) -> Array:
    """Return a tensor's `data`, flat or nested in lists, as an array.

    Raises:
        ClientError: a value has the wrong type, or the values do not fill the shape.
    """
    values = tensor.get("data")
    if type(values) is not list:
        raise ClientError(f"{location}: expected a list as data, got {describe(values)}")
    if values and type(values[0]) is list:
        values = _flatten(values, shape, location)
    count = prod(shape)
    if len(values) != count:
        raise ClientError(
            f"{location}: expected {count} values for shape {list(shape)}, got {len(values)}"
        )
    if spec.dtype == STRING and _content_type(tensor) == BASE64:
        flat: Array | None = byte_array(
            [_from_base64(value, i, location) for i, value in enumerate(values)]
        )
    else:
        flat = flat_array(values, spec.dtype)
    if flat is None:
        flat = to_array(
            values,
            TensorSpec(spec.dtype, (None,)),
            lambda index: f"{location} data" + "".join(f"[{i}]" for i in index),
        )
    return _reshape(flat, shape, location)


def read_binary(data: memoryview, shape: tuple[int, ...], spec: TensorSpec, location: str) -> Array:
    """Return binary data as an array, without copying numbers other than BF16.

    Raises:
        ClientError: the bytes do not fill the shape exactly, or are invalid for the datatype.
    """
    count = prod(shape)
    if spec.dtype == STRING:
        return _reshape(byte_array(_read_strings(data, count, location)), shape, location)
    dtype = np.dtype(np.uint16) if spec.dtype == BFLOAT16 else DTYPES[spec.dtype]
    if len(data) != count * dtype.itemsize:
        raise ClientError(
            f"{location}: expected {count * dtype.itemsize} bytes for shape {list(shape)}, "
            f"got {len(data)}"
        )
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise ClientError(
            f"{location}: expected a 0 or 1 in each byte of BOOL data, got another value"
        )
    array = np.frombuffer(data, dtype)
    return _reshape(from_bfloat16(array) if spec.dtype == BFLOAT16 else array, shape, location)


def write_tensor(
    name: str, array: Array, spec: TensorSpec | None, binary: bool
) -> tuple[dict[str, Any], bytes]:
    """Return an output as the protocol's object, and its bytes if it is binary.

    Numbers remain a numpy array in the object. NaN and infinities have no JSON form; orjson writes
    null.

    Args:
        name: the output's name.
        array: its values.
        spec: the output's spec in the signature, if known.
        binary: whether to return the values as bytes.

    Raises:
        ClientError: the protocol has no such datatype.
    """
    is_string = array.dtype == np.object_
    is_bfloat16 = spec is not None and spec.dtype == BFLOAT16
    if array.dtype not in _DATATYPE_OF_ARRAY:
        raise ClientError(
            f"output {name}: the protocol has no type for {array.dtype.name}; "
            "request the other outputs by name",
            501,
        )
    tensor: dict[str, Any] = {
        "name": name,
        "datatype": "BF16" if is_bfloat16 else _DATATYPE_OF_ARRAY[array.dtype],
        "shape": array.shape,
    }
    if binary:
        bits = to_bfloat16(array) if is_bfloat16 else array
        data = _write_strings(array.reshape(-1).tolist()) if is_string else bits.tobytes()
        tensor["parameters"] = {"binary_data_size": len(data)}
        return tensor, data
    if not is_string:
        tensor["data"] = np.ascontiguousarray(array).reshape(-1)
        return tensor, b""
    values = array.reshape(-1).tolist()
    try:
        tensor["data"] = [value.decode() for value in values]
    except UnicodeDecodeError:
        tensor["parameters"] = {"content_type": BASE64}
        tensor["data"] = [base64.b64encode(value).decode() for value in values]
    return tensor, b""


def _reshape(flat: Array, shape: tuple[int, ...], location: str) -> Array:
    try:
        return flat.reshape(shape)
    except ValueError:  # a zero in the shape, and other dimensions that overflow
        raise ClientError(f"{location}: shape {list(shape)} is too large") from None


def _flatten(values: list[Any], shape: tuple[int, ...], location: str) -> list[Any]:
    """Flatten nested lists of a given shape."""
    level = values
    for length in shape[1:]:
        if not all(type(inner) is list and len(inner) == length for inner in level):
            break
        level = list(chain.from_iterable(level))
    else:
        if shape and len(values) == shape[0]:
            return level
    raise ClientError(f"{location}: expected flat data, or nested lists of shape {list(shape)}")


def _content_type(tensor: Mapping[str, Any]) -> Any:
    parameters = tensor.get("parameters")
    return parameters.get("content_type") if isinstance(parameters, dict) else None


def _from_base64(value: Any, index: int, location: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ClientError(
            f"{location} data[{index}]: expected base64, got {describe(value)}"
        ) from None


def _read_strings(data: memoryview, count: int, location: str) -> list[bytes]:
    raw, offset = bytes(data), 0
    values: list[bytes] = []
    while offset + 4 <= len(raw) and len(values) < count:
        end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "little")
        values.append(raw[offset + 4 : end])
        offset = end
    if len(values) != count or offset != len(raw):
        raise ClientError(
            f"{location}: expected {count} strings, each after its length in four bytes, "
            f"got {len(raw)} bytes of another form"
        )
    return values


def _write_strings(values: list[bytes]) -> bytes:
    # Labels have few distinct values.
    packed = {value: len(value).to_bytes(4, "little") + value for value in set(values)}
    return b"".join([packed[value] for value in values])
