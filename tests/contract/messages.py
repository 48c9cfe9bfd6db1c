"""Converts messages to values that can be compared, regardless of their encoding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2


def to_values(message: Any) -> Any:
    """Return a message as dicts, lists and scalars, without unset fields.

    A TensorProto becomes its dtype, shape and values, whether these are in `tensor_content`, in
    typed fields, or given once for all elements. An Any becomes the message that it contains.
    """
    if isinstance(message, tensor_pb2.TensorProto):
        return _tensor_values(message)
    if isinstance(message, any_pb2.Any):
        content = get_model_metadata_pb2.SignatureDefMap()  # the only type in the recordings
        assert message.Unpack(content), message.type_url
        return to_values(content)
    return {field.name: _field_values(field, value) for field, value in message.ListFields()}


def _field_values(field: Any, value: Any) -> Any:
    is_message = field.message_type is not None
    if is_message and field.message_type.GetOptions().map_entry:
        has_messages = field.message_type.fields_by_name["value"].message_type is not None
        return {key: to_values(entry) if has_messages else entry for key, entry in value.items()}
    if hasattr(value, "extend"):
        return [to_values(entry) if is_message else entry for entry in value]
    return to_values(value) if is_message else value


def _tensor_values(proto: Any) -> dict[str, Any]:
    shape = [dim.size for dim in proto.tensor_shape.dim]
    flat = tensor_pb2.TensorProto()
    flat.CopyFrom(proto)
    flat.tensor_shape.Clear()  # NumPy allows fewer dimensions than TensorFlow
    flat.tensor_shape.dim.add(size=math.prod(shape))
    values = tf.make_ndarray(flat)
    if values.dtype == tf.bfloat16.as_numpy_dtype:
        values = values.astype(np.float32)
    dtype = types_pb2.DataType.Name(proto.dtype)
    return {"dtype": dtype, "shape": shape, "values": values.tolist()}
