"""Example requests, made from a model's schema."""

from __future__ import annotations

from typing import Any

from client.codecs.input_layout import JSON_DTYPES
from client.errors import ClientError
from client.serving.schema import DEFAULT_SIGNATURE, Schema, TensorSpec
from client.serving.tensors import DTYPES, dtype_name

_BY_KIND: dict[str, Any] = {"f": 1.0, "i": 1, "u": 1, "b": True, "O": "text"}


def example_request(schema: Schema, signature_name: str = "") -> dict[str, Any]:
    """Return the JSON body of a predict request.

    Described columns have a typical value of each class. Other inputs have a value of their type
    and shape, with 1 for every free dimension.

    Raises:
        ClientError: the model has no such signature, or an input has no JSON form.
    """
    name = signature_name or DEFAULT_SIGNATURE
    signature = schema.signatures.get(name)
    if signature is None:
        known = ", ".join(sorted(schema.signatures))
        raise ClientError(f'signature: model {schema.model} has no "{name[:100]}"; it has {known}')
    for input_name, spec in signature.inputs.items():
        if spec.dtype not in JSON_DTYPES:
            raise ClientError(
                f"input {input_name}: values of {dtype_name(spec.dtype)} have no JSON form"
            )
    name_field = {"signature_name": name} if name != DEFAULT_SIGNATURE else {}
    rows = example_rows(schema, name)
    if rows:
        return {**name_field, "instances": rows}
    specs = signature.inputs
    if signature.batched:
        return {**name_field, "instances": [{n: _example_value(s, 1) for n, s in specs.items()}]}
    return {**name_field, "inputs": {n: _example_value(s, 0) for n, s in specs.items()}}


def example_rows(schema: Schema, signature_name: str) -> list[dict[str, Any]]:
    """Return a typical row of each class; none if the model does not describe its columns."""
    order = schema.column_order(signature_name)
    if order is None or schema.description is None:
        return []
    inputs = schema.signatures[signature_name].inputs
    columns = {column.name: column for column in schema.description.columns}
    return [
        {name: columns[name].example(class_index, inputs[name].dtype) for name in order}
        for class_index in (0, 1)
    ]


def _example_value(spec: TensorSpec, skipped_dims: int) -> Any:
    """Return a value for an input, without its first dimensions."""
    value = _BY_KIND[DTYPES[spec.dtype].kind]
    for length in reversed((spec.shape or ())[skipped_dims:]):
        value = [value] * (1 if length is None else length)
    return value
