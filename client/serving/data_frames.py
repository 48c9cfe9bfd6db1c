"""Data frames as a signature's inputs; pandas and polars are recognised, not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from client.errors import InvalidArgumentError
from client.serving.schema import DENSE, DENSE_INPUT, Column, Schema, Signature
from client.serving.tensors import STRING


def is_frame(values: Any) -> bool:
    """Tell whether values are a table with named columns, such as a pandas or polars DataFrame."""
    return hasattr(values, "columns") and hasattr(values, "__getitem__")


def of_frame(frame: Any, signature_name: str, schema: Schema) -> tuple[str, Mapping[str, Any]]:
    """Return a signature and its inputs with a frame's columns.

    The columns are the inputs of the same name. If they are all numbers, and `dense` computes the
    same from one matrix, that is used: one tensor travels faster than one for each column. A
    signature whose only input has another name takes the frame as a matrix, with the columns in
    the model's order if it has told one, else in the frame's own.

    Raises:
        InvalidArgumentError: a column is missing, unknown, or holds what the input cannot take.
    """
    names = [str(name) for name in frame.columns]
    columns = dict(zip(names, frame.columns, strict=True))
    order = schema.dense_order(signature_name)
    signature = schema.signatures.get(signature_name)
    if order is not None:
        _check_names(names, order)
        return DENSE, {DENSE_INPUT: _matrix(frame, [columns[name] for name in order])}
    if signature is None:
        return signature_name, {}  # the server will refuse it by name
    described = schema.described.get(signature_name, {})
    if len(signature.inputs) == 1 and names != list(signature.inputs):
        (only,) = signature.inputs
        order = tuple(column.name for column in described.get(only, ())) or tuple(names)
        _check_names(names, order)
        return signature_name, {only: _matrix(frame, [columns[name] for name in order])}
    _check_names(names, tuple(signature.inputs))
    return signature_name, {
        name: _values(frame[columns[name]], name, signature, described.get(name, ()))
        for name in signature.inputs
    }


def of_array(array: Any, signature_name: str, schema: Schema) -> tuple[str, Mapping[str, Any]]:
    """Return a signature and its inputs with an array for the only input, or the matrix of `dense`.

    Raises:
        InvalidArgumentError: the signature has several inputs.
    """
    if schema.dense_order(signature_name) is not None:
        return DENSE, {DENSE_INPUT: array}
    signature = schema.signatures.get(signature_name)
    inputs = list(signature.inputs) if signature else []
    if signature is not None and len(inputs) != 1:
        raise InvalidArgumentError(
            f"signature {signature_name} has several inputs; expected an array for each of "
            f"{', '.join(inputs)}, or a frame, got one {type(array).__name__}"
        )
    return signature_name, dict.fromkeys(inputs, array)


def _check_names(names: Sequence[str], wanted: Sequence[str]) -> None:
    unknown = [name for name in names if name not in wanted]
    missing = [name for name in wanted if name not in names]
    listing = ", ".join(wanted)
    if unknown:
        raise InvalidArgumentError(f'unknown column "{unknown[0]}"; the columns are {listing}')
    if missing:
        raise InvalidArgumentError(f'column "{missing[0]}" is missing; the columns are {listing}')


def _matrix(frame: Any, columns: Sequence[Any]) -> Any:
    return np.column_stack([frame[column].to_numpy() for column in columns])


def _values(series: Any, name: str, signature: Signature, described: Sequence[Column]) -> Any:
    values = series.to_numpy()
    if signature.inputs[name].dtype != STRING or not described:
        return values
    return [_text(value, name, described[0]) for value in values.tolist()]


def _text(value: Any, name: str, column: Column) -> str | bytes:
    """Return what a category is called in the model: tables hold numbers and gaps there too."""
    if isinstance(value, str | bytes):
        return value
    missing = value is None or value != value or type(value).__name__ == "NAType"
    text = column.encode(None if missing else value, STRING)
    if not isinstance(text, str):
        raise InvalidArgumentError(f"input {name}: expected strings, got {value!r}")
    return text
