"""Tensors between numpy and TensorProto, as bytes wherever the protocol allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from client.serving.protos import DataType, TensorProto

Array = npt.NDArray[Any]

STRING = DataType.Value("DT_STRING")

# numpy dtype of each tensor dtype, and the field that holds values that do not travel as bytes.
# bfloat16 and the quantized types have no numpy dtype.
_NUMPY = {
    "DT_FLOAT": (np.float32, "float_val"),
    "DT_DOUBLE": (np.float64, "double_val"),
    "DT_HALF": (np.float16, "half_val"),
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
        proto.tensor_content = array.tobytes()
    return proto


def from_proto(proto: Any) -> Array:
    """Return a TensorProto's values, strings as an object array of bytes.

    Raises:
        ValueError: its dtype has no numpy form, or there are not as many values as its shape says.
        OverflowError: a value is none of its dtype.
    """
    if proto.dtype not in DTYPES:
        raise ValueError(f"tensors of {dtype_name(proto.dtype)} cannot be read here")
    dtype, shape = DTYPES[proto.dtype], [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content and proto.dtype != STRING:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = getattr(proto, _FIELDS[proto.dtype])
    if dtype == np.float16:
        return np.array(values, np.uint16).view(dtype).reshape(shape)
    if dtype.kind == "c":
        return np.array(values, dtype.type(0).real.dtype).view(dtype).reshape(shape)
    return np.array(values, dtype).reshape(shape)


def dtype_name(dtype: int) -> str:
    """Return a dtype's name as people write it: `float32`, `string`."""
    if dtype == STRING:
        return "string"
    if dtype in DTYPES:
        return DTYPES[dtype].name
    name: str = DataType.Name(dtype) if dtype in DataType.values() else str(dtype)
    return name.removeprefix("DT_").lower()
