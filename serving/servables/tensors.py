"""TensorProto to numpy and back, by the rules of TensorFlow's `Tensor::FromProto`.

Source: tensorflow/core/framework/tensor.cc. A missing shape means a scalar. If there are too few
typed values, the last one, or zero, is repeated; surplus ones are dropped. `tensor_content` takes
precedence over typed fields and must fit exactly. Two rules differ: this module rejects integers
that do not fit a narrower type, which TensorFlow wraps, and tensors beyond `MAX_BYTES` or
`MAX_FILLED`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import types_pb2

Array = npt.NDArray[Any]

# The TensorProto field of each dtype, and the field's own type.
_FIELDS = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT8: ("int_val", np.int32),
    types_pb2.DT_INT16: ("int_val", np.int32),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_UINT8: ("int_val", np.int32),
    types_pb2.DT_UINT16: ("int_val", np.int32),
    types_pb2.DT_UINT32: ("uint32_val", np.uint32),
    types_pb2.DT_UINT64: ("uint64_val", np.uint64),
    types_pb2.DT_BOOL: ("bool_val", np.bool_),
    types_pb2.DT_STRING: ("string_val", np.object_),
    types_pb2.DT_HALF: ("half_val", np.int32),  # the 16 bits as an integer
    types_pb2.DT_BFLOAT16: ("half_val", np.int32),
    types_pb2.DT_COMPLEX64: ("scomplex_val", np.float32),  # alternating real and imaginary parts
    types_pb2.DT_COMPLEX128: ("dcomplex_val", np.float64),
}
# Array dtypes by `tensorflow.DataType`.
DTYPES = {enum: np.dtype(tf.DType(enum).as_numpy_dtype) for enum in _FIELDS}
_ENUMS = {dtype: enum for enum, dtype in DTYPES.items()}
# TensorFlow types without a numpy dtype.
_WITHOUT_NUMPY_DTYPE = (
    types_pb2.DT_QINT8,
    types_pb2.DT_QUINT8,
    types_pb2.DT_QINT16,
    types_pb2.DT_QUINT16,
    types_pb2.DT_QINT32,
    types_pb2.DT_RESOURCE,
    types_pb2.DT_VARIANT,
)
_HALVES = (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16)
_COMPLEX = (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128)

# The largest gRPC message, and so the largest tensor that a caller can send in full.
MAX_BYTES = 2**31
# Maximum values to fill in. Otherwise, a tiny request could have a value repeated until memory is
# exhausted, which TensorFlow Serving does not prevent.
MAX_FILLED = 2**20
# The same for strings, which TensorFlow copies each time; the largest numbers have 16 bytes.
MAX_FILLED_BYTES = 16 * MAX_FILLED
# Maximum rank of TensorFlow's tensors, of numpy's arrays, and of string arrays that TensorFlow
# converts without crashing the process.
MAX_RANK = 254
MAX_ARRAY_RANK = 64
MAX_STRING_ARRAY_RANK = 32


@dataclass(frozen=True)
class ProtoTensor:
    """A tensor that numpy cannot hold: too many dimensions, or a type without a numpy dtype."""

    proto: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each dimension."""
        return tuple(dim.size for dim in self.proto.tensor_shape.dim)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.proto.tensor_shape.dim)


Tensor = Array | ProtoTensor


def decode(proto: Any) -> Tensor:
    """Return a TensorProto as an array, or as a ProtoTensor if numpy cannot hold it.

    Raises:
        ValueError: the proto does not describe a tensor.
        OverflowError: an integer does not fit its type; the message names it.
    """
    shape = _shape(proto)
    size = math.prod(shape)
    if proto.dtype in _WITHOUT_NUMPY_DTYPE:
        # Each value in tensor_content takes at least one byte.
        fields = proto.tensor_content, proto.int_val, proto.resource_handle_val, proto.variant_val
        _check_filled(size, max(map(len, fields)))
        return ProtoTensor(proto)
    if proto.dtype not in _FIELDS:
        raise ValueError(f"unsupported dtype {proto.dtype}")
    dtype = DTYPES[proto.dtype]
    if (bytes_needed := size * dtype.itemsize) > MAX_BYTES:
        raise ValueError(f"the shape needs {bytes_needed} bytes; expected at most {MAX_BYTES}")
    values = _decode_values(proto, dtype, size)
    is_string = proto.dtype == types_pb2.DT_STRING
    if len(shape) > (MAX_STRING_ARRAY_RANK if is_string else MAX_ARRAY_RANK):
        return ProtoTensor(proto)
    return values.reshape(shape)


def encode(tensor: Tensor, proto: Any, *, as_content: bool = False) -> None:
    """Write a tensor into an empty TensorProto.

    Args:
        tensor: the values; strings as an object array of bytes.
        proto: an empty TensorProto.
        as_content: write numbers as `tensor_content` instead of typed fields.
    """
    if isinstance(tensor, ProtoTensor):
        proto.CopyFrom(tensor.proto)
        return
    dtype = data_type(tensor)
    proto.dtype = dtype
    proto.tensor_shape.SetInParent()
    for length in tensor.shape:
        proto.tensor_shape.dim.add(size=length)
    if as_content and dtype != types_pb2.DT_STRING:
        proto.tensor_content = tensor.tobytes()
        return
    field, field_dtype = _FIELDS[dtype]
    flat = tensor.reshape(-1)
    if dtype in _HALVES:
        flat = flat.view(np.uint16)
    elif dtype in _COMPLEX:
        flat = flat.view(field_dtype)
    getattr(proto, field).extend(flat.tolist())


def string_array(values: Sequence[bytes]) -> Array:
    """Return byte strings as an object array with one dimension."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def data_type(tensor: Tensor) -> int:
    """Return the `tensorflow.DataType` of a tensor."""
    return int(tensor.proto.dtype if isinstance(tensor, ProtoTensor) else _ENUMS[tensor.dtype])


def _shape(proto: Any) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape} has a negative dimension")
    if len(shape) > MAX_RANK:
        raise ValueError(f"the shape has {len(shape)} dimensions; expected at most {MAX_RANK}")
    return shape


def _decode_values(proto: Any, dtype: np.dtype[Any], size: int) -> Array:
    if size and proto.tensor_content:
        return _decode_content(proto, dtype, size)
    return _resize(_decode_field(proto, dtype), size)


def _decode_content(proto: Any, dtype: np.dtype[Any], size: int) -> Array:
    content = proto.tensor_content
    if proto.dtype == types_pb2.DT_STRING:
        return _decode_strings(content, size)
    if len(content) != size * dtype.itemsize:
        raise ValueError(
            f"tensor_content has {len(content)} bytes; expected {size * dtype.itemsize} "
            f"for {size} values of {dtype}"
        )
    values = np.frombuffer(content, np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_:
        if (values > 1).any():
            raise ValueError("tensor_content of a bool has a byte that is neither 0 nor 1")
        return values.view(np.bool_)
    return values


def _decode_strings(content: bytes, size: int) -> Array:
    """Read `size` varint lengths and then the bytes, as port::DecodeStringList does."""
    lengths, position = [], 0
    for _ in range(size):
        length = shift = 0
        while True:
            if position >= len(content) or shift > 28:
                raise ValueError("tensor_content has an incomplete or overlong string length")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError("tensor_content does not match its string lengths")
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return string_array(values)


def _decode_field(proto: Any, dtype: np.dtype[Any]) -> Array:
    field, field_dtype = _FIELDS[proto.dtype]
    values: Array = np.array(getattr(proto, field), field_dtype)
    if proto.dtype in _HALVES:
        return _narrow(values, np.dtype(np.uint16)).view(dtype)
    if proto.dtype in _COMPLEX:
        return values[: len(values) // 2 * 2].view(dtype)
    return _narrow(values, dtype)


def _narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    """Convert to a narrower integer type, rejecting values that do not fit."""
    if values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    out_of_range = values[(values < limits.min) | (values > limits.max)]
    if len(out_of_range):
        raise OverflowError(f"{out_of_range[0]} is not from {limits.min} to {limits.max}")
    return values.astype(dtype)


def _resize(values: Array, size: int) -> Array:
    """Truncate values to `size`, or repeat the last one (zero or "" if there is none)."""
    if len(values) >= size:
        return values[:size]
    is_string = values.dtype == np.object_
    last = values[-1] if len(values) else b"" if is_string else values.dtype.type(0)
    _check_filled(size, len(values), len(last) if is_string else 0)
    filled = np.empty(size, values.dtype)
    filled[: len(values)] = values
    filled[len(values) :].fill(last)
    return filled


def _check_filled(size: int, sent: int, string_length: int = 0) -> None:
    missing = size - sent
    if missing > MAX_FILLED or missing * string_length > MAX_FILLED_BYTES:
        raise ValueError(f"the shape has {size} values, but {sent} were sent")
