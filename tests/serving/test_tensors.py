from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.servables import tensors

FIXED_SIZE_DTYPES = [
    tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int8, tf.int16, tf.int32, tf.int64,
    tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.bool, tf.complex64, tf.complex128,
]  # fmt: skip


def decode(message: Any) -> tensors.Array:
    array = tensors.decode(message)
    assert isinstance(array, np.ndarray)
    return array


def encode(array: Any, *, as_content: bool = False) -> Any:
    message = tensor_pb2.TensorProto()
    tensors.encode(array, message, as_content=as_content)
    return message


def proto(dtype: int, shape: list[int], **values: Any) -> Any:
    message = tensor_pb2.TensorProto(dtype=dtype, **values)
    for length in shape:
        message.tensor_shape.dim.add(size=length)
    return message


@pytest.mark.parametrize("dtype", FIXED_SIZE_DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)], ids=str)
def test_fixed_size_dtypes_round_trip(dtype: Any, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype.as_numpy_dtype)
    for message in (
        tf.make_tensor_proto(values),
        encode(values),
        encode(values, as_content=True),
    ):
        assert message.dtype == dtype.as_datatype_enum
        decoded = decode(message)
        assert decoded.dtype == values.dtype
        np.testing.assert_array_equal(decoded, values)
        # TensorFlow itself reads our encoding as the same tensor.
        np.testing.assert_array_equal(tf.make_ndarray(message), values)


def test_encode_uses_typed_fields_by_default() -> None:
    message = encode(np.array([1.5, 2.5], np.float32))
    assert list(message.float_val) == [1.5, 2.5]
    assert not message.tensor_content


def test_strings_may_hold_any_bytes() -> None:
    values = np.array([b"\xff\x00", "grüß".encode()], object).reshape(2, 1)
    np.testing.assert_array_equal(decode(encode(values)), values)


def test_strings_in_tensor_content_have_varint_lengths() -> None:
    long = b"x" * 300
    content = b"\x02" + b"\xac\x02" + b"ab" + long
    assert decode(proto(types_pb2.DT_STRING, [2], tensor_content=content)).tolist() == [b"ab", long]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (proto(types_pb2.DT_FLOAT, [3], float_val=[2]), [2, 2, 2]),
        (proto(types_pb2.DT_FLOAT, [3], float_val=[1, 2]), [1, 2, 2]),
        (proto(types_pb2.DT_FLOAT, [2]), [0, 0]),
        (proto(types_pb2.DT_FLOAT, [2], float_val=[1, 2, 3]), [1, 2]),
        (proto(types_pb2.DT_FLOAT, [2], int_val=[1, 2]), [0, 0]),
        (proto(types_pb2.DT_FLOAT, [], float_val=[4]), 4),
        (proto(types_pb2.DT_FLOAT, [1], float_val=[1], tensor_content=b"\0\0\0\x40"), [2]),
        (proto(types_pb2.DT_FLOAT, [0], tensor_content=b"abc"), []),
        (proto(types_pb2.DT_STRING, [2]), [b"", b""]),
        (proto(types_pb2.DT_BOOL, [3], bool_val=[True]), [True] * 3),
    ],
)
def test_missing_and_surplus_values_are_handled_as_in_tensorflow(
    message: Any, expected: Any
) -> None:
    assert decode(message).tolist() == expected


@pytest.mark.parametrize(
    "message",
    [
        proto(types_pb2.DT_INVALID, [1]),
        proto(types_pb2.DT_FLOAT_REF, [1]),
        proto(types_pb2.DT_FLOAT, [-1], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [2**62], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [2**40, 2**40], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [2], tensor_content=b"\0\0\0\0"),
        proto(types_pb2.DT_BOOL, [1], tensor_content=b"\x02"),
        proto(types_pb2.DT_STRING, [2], tensor_content=b"\x05\x05ab"),
        # This and the next have more than MAX_FILLED values to fill in.
        proto(types_pb2.DT_STRING, [2**28]),
        proto(types_pb2.DT_INT32, [2**24], int_val=[1]),
        # TensorFlow copies the string for each value.
        proto(types_pb2.DT_STRING, [2**10], string_val=[b"a" * 2**16]),
        proto(types_pb2.DT_QINT32, [2**33]),
        proto(types_pb2.DT_QINT8, [-5]),
        proto(types_pb2.DT_VARIANT, [2**33], tensor_content=b"\1"),
        proto(types_pb2.DT_STRING, [1], tensor_content=b"\x80\x80\x80\x80\x80\x80"),
    ],
)
def test_invalid_tensors_are_rejected(message: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(message)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (proto(types_pb2.DT_INT8, [1], int_val=[300]), "300 is not from -128 to 127"),
        (proto(types_pb2.DT_UINT8, [1], int_val=[-1]), "-1 is not from 0 to 255"),
        (proto(types_pb2.DT_HALF, [1], half_val=[70_000]), "70000 is not from 0 to 65535"),
    ],
)
def test_out_of_range_integer_is_rejected(message: Any, error: str) -> None:
    with pytest.raises(OverflowError, match=error):
        decode(message)


@pytest.mark.parametrize(("dtype", "rank"), [(types_pb2.DT_FLOAT, 65), (types_pb2.DT_STRING, 33)])
def test_tensor_with_too_many_dimensions_for_an_array_stays_a_proto(dtype: int, rank: int) -> None:
    # Converting strings with more dimensions to an array would crash the process.
    assert isinstance(tensors.decode(proto(dtype, [1] * rank)), tensors.ProtoTensor)
    with pytest.raises(ValueError, match="dimensions"):
        decode(proto(dtype, [1] * 255))


def test_repeated_string_keeps_its_null_bytes() -> None:
    message = proto(types_pb2.DT_STRING, [3], string_val=[b"a\0"])
    assert decode(message).tolist() == [b"a\0"] * 3


def test_unknown_rank_is_ignored_if_dimensions_are_given() -> None:
    message = proto(types_pb2.DT_FLOAT, [2], float_val=[1.0, 2.0])
    message.tensor_shape.unknown_rank = True
    assert decode(message).tolist() == [1.0, 2.0]
