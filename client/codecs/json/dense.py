"""Dense calls: one matrix instead of one input for each column."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from client.codecs.batches import Call
from client.errors import ClientError
from client.serving.schema import DEFAULT_SIGNATURE, DENSE, DENSE_INPUT, Schema
from client.serving.tensors import Array


def shortest_call(
    schema: Schema,
    signature_name: str,
    inputs: Mapping[str, Array],
    output_filter: tuple[str, ...] = (),
) -> Call:
    """Return the call with the fewest tensors that computes the same as a signature.

    Args:
        schema: schema of the model.
        signature_name: the requested signature.
        inputs: an array for each of its inputs, of the input's dtype.
        output_filter: names of the outputs to return; empty for all.

    Raises:
        ClientError: the columns of a table are of unequal length.
    """
    is_default = signature_name == DEFAULT_SIGNATURE
    order = schema.dense_order(signature_name) if is_default else None
    if order is None:
        return Call(signature_name, inputs, output_filter)
    columns = [inputs[name] for name in order]
    if len(set(map(len, columns))) != 1:
        first = len(columns[0])
        name = next(n for n, c in zip(order, columns, strict=True) if len(c) != first)
        raise ClientError(
            f'column "{name}": expected {first} values like column "{order[0]}", '
            f"got {len(inputs[name])}"
        )
    matrix = np.concatenate(columns).reshape(len(order), -1).T
    return Call(DENSE, {DENSE_INPUT: matrix}, output_filter)
