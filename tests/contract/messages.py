"""Messages as values that can be compared, however they are encoded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2


def plain(message: Any) -> Any:
    """Return a message as dicts, lists and scalars; fields that are not set are left out.

    A TensorProto becomes its dtype, shape and values, whether these are in `tensor_content`, in
    typed fields, or one of them stands for all. An Any becomes what it holds.
    """
    if isinstance(message, tensor_pb2.TensorProto):
        return _tensor(message)
    if isinstance(message, any_pb2.Any):
        held = get_model_metadata_pb2.SignatureDefMap()  # the only message that recordings pack
        assert message.Unpack(held), message.type_url
        return plain(held)
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def _field(field: Any, value: Any) -> Any:
    is_message = field.message_type is not None
    if is_message and field.message_type.GetOptions().map_entry:
        of_messages = field.message_type.fields_by_name["value"].message_type is not None
        return {key: plain(entry) if of_messages else entry for key, entry in value.items()}
    if hasattr(value, "extend"):
        return [plain(entry) if is_message else entry for entry in value]
    return plain(value) if is_message else value


def _tensor(proto: Any) -> dict[str, Any]:
    shape = [dim.size for dim in proto.tensor_shape.dim]
    flat = tensor_pb2.TensorProto()
    flat.CopyFrom(proto)
    flat.tensor_shape.Clear()  # numpy has not as many dimensions as TensorFlow
    flat.tensor_shape.dim.add(size=math.prod(shape))
    values = tf.make_ndarray(flat)
    if values.dtype == tf.bfloat16.as_numpy_dtype:
        values = values.astype(np.float32)
    dtype = types_pb2.DataType.Name(proto.dtype)
    return {"dtype": dtype, "shape": shape, "values": values.tolist()}
