"""Conversion between numpy arrays and TensorProto, as bytes where the protocol allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from client.serving.protos import DataType, TensorProto

Array = npt.NDArray[Any]

# numpy's limit; TensorFlow's is 254.
MAX_RANK = 64

STRING = DataType.Value("DT_STRING")
BOOL = DataType.Value("DT_BOOL")
# numpy has no bfloat16; its values are float32 here, which holds all of them.
BFLOAT16 = DataType.Value("DT_BFLOAT16")

# numpy dtype of each tensor dtype, and the field for values that are not sent as bytes. The
# quantized types have no numpy dtype.
_NUMPY = {
    "DT_FLOAT": (np.float32, "float_val"),
    "DT_DOUBLE": (np.float64, "double_val"),
    "DT_HALF": (np.float16, "half_val"),
    "DT_BFLOAT16": (np.float32, "half_val"),
    "DT_INT8": (np.int8, "int_val"),
    "DT_INT16": (np.int16, "int_val"),
    "DT_INT32": (np.int32, "int_val"),
    "DT_INT64": (np.int64, "int64_val"),
    "DT_UINT8": (np.uint8, "int_val"),
    "DT_UINT16": (np.uint16, "int_val"),
    "DT_UINT32": (np.uint32, "uint32_val"),
    "DT_UINT64": (np.uint64, "uint64_val"),
    "DT_BOOL": (np.bool_, "bool_val"),
    "DT_COMPLEX64": (np.complex64, "scomplex_val"),
    "DT_COMPLEX128": (np.complex128, "dcomplex_val"),
    "DT_STRING": (np.object_, "string_val"),
}
DTYPES: dict[int, np.dtype[Any]] = {
    DataType.Value(name): np.dtype(dtype) for name, (dtype, _) in _NUMPY.items()
}
_FIELDS = {DataType.Value(name): field for name, (_, field) in _NUMPY.items()}


def to_proto(array: Array, dtype: int) -> Any:
    """Return an array as a TensorProto.

    Args:
        array: of the numpy dtype that belongs to `dtype`; strings as an object array of bytes.
        dtype: a `tensorflow.DataType` that is in `DTYPES`.
    """
    proto = TensorProto(dtype=dtype)
    for length in array.shape:
        proto.tensor_shape.dim.add(size=length)
    if dtype == STRING:
        proto.string_val.extend(array.reshape(-1).tolist())
    else:
        bits = to_bfloat16(array) if dtype == BFLOAT16 else array
        proto.tensor_content = bits.tobytes()
    return proto


def from_proto(proto: Any) -> Array:
    """Return a TensorProto's values, strings as an object array of bytes.

    Raises:
        ValueError: its dtype is not supported, or the number of values does not fit its shape.
        OverflowError: a value does not fit its dtype.
    """
    if proto.dtype not in DTYPES:
        raise ValueError(f"tensors of {dtype_name(proto.dtype)} are not supported")
    dtype, shape = DTYPES[proto.dtype], [dim.size for dim in proto.tensor_shape.dim]
    wire_dtype = np.dtype(np.uint16) if proto.dtype == BFLOAT16 else dtype
    if proto.tensor_content and proto.dtype != STRING:
        array = np.frombuffer(proto.tensor_content, wire_dtype).reshape(shape)
        return from_bfloat16(array) if proto.dtype == BFLOAT16 else array
    values = getattr(proto, _FIELDS[proto.dtype])
    if proto.dtype == BFLOAT16:
        return from_bfloat16(np.array(values, np.uint16).reshape(shape))
    if dtype == np.float16:
        return np.array(values, np.uint16).view(dtype).reshape(shape)
    if dtype.kind == "c":
        return np.array(values, dtype.type(0).real.dtype).view(dtype).reshape(shape)
    return np.array(values, dtype).reshape(shape)


def holds_booleans(array: Array) -> bool:
    """Return whether integers are booleans in bit 0: 0, 1, or -2 and -1 for missing ones."""
    return array.dtype == np.int8 and -2 <= array.min(initial=0) <= array.max(initial=0) <= 1


def as_text(name: str, array: Array) -> Array:
    """Return an output with strings as `str`.

    Bytes that are not UTF-8, and outputs whose name ends in `_bytes`, stay bytes.
    """
    if array.dtype != np.object_ or name.endswith("_bytes"):
        return array
    try:
        texts = [value.decode() for value in array.reshape(-1).tolist()]
    except UnicodeDecodeError:
        return array
    decoded = np.empty(len(texts), object)
    decoded[:] = texts
    return decoded.reshape(array.shape)


def from_bfloat16(bits: Array) -> Array:
    """Return the float32 values of bfloat16 bits, uint16 of any shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(array: Array) -> Array:
    """Return the bfloat16 bits, uint16, that are nearest to float32 values, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding could carry a NaN's payload into its exponent.
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def dtype_name(dtype: int) -> str:
    """Return a dtype's common name: `float32`, `string`."""
    if dtype == STRING:
        return "string"
    if dtype in DTYPES and dtype != BFLOAT16:
        return DTYPES[dtype].name
    name: str = DataType.Name(dtype) if dtype in DataType.values() else str(dtype)
    return name.removeprefix("DT_").lower()
