"""`:predict`: "instances" or "inputs" to arrays, outputs to "predictions" or "outputs"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import orjson

from client.codecs import Call, JsonCall
from client.codecs.json import fast
from client.codecs.json.rows import read_document
from client.codecs.json_outputs import write_columns, write_rows
from client.codecs.tfs_rest.document import ABSENT, Members, describe, invalid_request, parse
from client.codecs.tfs_rest.instances import read_instances
from client.codecs.tfs_rest.tensors import (
    ValueMismatchError,
    check,
    infer_shape,
    is_b64,
    to_array,
)
from client.errors import ClientError
from client.serving.schema import DEFAULT_SIGNATURE, Schema, Signature, TensorSpec
from client.serving.tensors import MAX_RANK, Array

PLAIN_INPUTS = (
    "inputs is a plain value/list, but expecting an object as multiple input tensors required "
    "as per tensorinfo_map"
)


def read(body: bytes, schema: Schema) -> JsonCall:
    """Decode the body of a predict request.

    Models that describe themselves also take the project's own dialect: null for a missing value,
    dates as text, rows as lists.

    Args:
        body: the JSON body, decompressed.
        schema: schema of the requested version.

    Raises:
        ClientError: the body does not fit the signature.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return read_strictly(body, schema)
    call = fast.read_parsed(document, body, schema)
    if call is not None:
        return call
    if _is_described(document, schema) and not fast.has_duplicate_keys(document, body):
        with suppress(ClientError):
            return read_document(document, schema)
    return read_strictly(body, schema)


def read_strictly(body: bytes, schema: Schema) -> JsonCall:
    """Decode a body by TensorFlow Serving's rules alone, checking each value where necessary."""
    document = parse(body)
    return _decode(document, signature_name(document), schema)


def _is_described(document: Any, schema: Schema) -> bool:
    name = document.get("signature_name") if type(document) is dict else None
    return type(name) in (str, type(None)) and (name or DEFAULT_SIGNATURE) in schema.input_columns


def check_body(body: bytes) -> None:
    """Raise the errors that do not depend on the model, which precede "no such model"."""
    signature_name(parse(body))


def write(outputs: Mapping[str, Array], *, row_form: bool) -> bytes:
    """Return the body of a predict response.

    Args:
        outputs: the model's outputs.
        row_form: whether the request was in row form.

    Raises:
        ClientError: an output has no JSON form, or in row form the row counts differ.
    """
    check_outputs(outputs, row_form=row_form)
    return write_rows(outputs) if row_form else write_columns(outputs)


def check_outputs(outputs: Mapping[str, Array], *, row_form: bool) -> None:
    """Raise an error if an output has no JSON form or if, in row form, the row counts differ."""
    if not outputs:
        raise ClientError("Cannot convert empty tensor map to JSON")
    rows: int | None = None
    for name in sorted(outputs):
        array = outputs[name]
        if array.dtype.kind == "c":
            raise ClientError(f"Failed to write JSON value for tensor type: {array.dtype.name}")
        if not row_form:
            continue
        if not array.ndim:
            raise ClientError(f"Tensor name: {name} has no shape information ")
        if rows is not None and len(array) != rows:
            raise ClientError(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
        rows = len(array)


def signature_name(document: Members) -> str:
    """Return the name of the signature, empty for the default.

    Raises:
        ClientError: the name is not a string.
    """
    name = document.first("signature_name", "")
    if not isinstance(name, str):
        raise invalid_request(f"signature_name: expected a string, got {describe(name)}")
    return name


def _decode(document: Members, name: str, schema: Schema) -> JsonCall:
    signature = _signature(name, schema)
    instances, inputs = document.first("instances", ABSENT), document.first("inputs", ABSENT)
    row_form = instances is not ABSENT
    if row_form:
        _check_instances(instances, inputs)
        arrays = read_instances(instances, signature)
    elif inputs is not ABSENT:
        arrays = _read_inputs(inputs, signature)
    else:
        raise invalid_request("Missing 'inputs' or 'instances' key")
    for input_name, array in arrays.items():
        spec = signature.inputs[input_name]
        if not _fits(array.shape, spec, row_form):
            raise invalid_request(
                f'input "{input_name}": expected {spec}, got shape {list(array.shape)}'
            )
    return JsonCall(Call(name or DEFAULT_SIGNATURE, arrays), row_form)


def _signature(name: str, schema: Schema) -> Signature:
    full_name = name or DEFAULT_SIGNATURE
    signature = schema.signatures.get(full_name)
    if signature is None and full_name not in schema.definition.signature_def:
        raise invalid_request(f'Serving signature name: "{full_name}" not found in signature def')
    if signature is None or not signature.inputs:
        raise invalid_request(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    return signature


def _check_instances(instances: Any, inputs: Any) -> None:
    if inputs is not ABSENT:
        raise ClientError('the body has both "instances" and "inputs"; expected one of them')
    if type(instances) is not list or not instances:
        got = describe(instances) if instances != [] else "an empty list"
        raise invalid_request(f"instances: expected a list of at least one row, got {got}")


def _read_inputs(inputs: Any, signature: Signature) -> dict[str, Array]:
    if type(inputs) is not Members or is_b64(inputs):
        if len(signature.inputs) > 1:
            raise invalid_request(PLAIN_INPUTS)
        inputs = Members([(next(iter(signature.inputs)), inputs)])
    arrays = {}
    for name, spec in signature.inputs.items():
        value = inputs.first(name, ABSENT)
        if value is ABSENT:
            raise invalid_request(f"Missing named input: {name} in 'inputs' object.")
        array = to_array(value, spec.dtype)
        if array is None:
            _check_values(name, value, spec)
        arrays[name] = array
    return arrays


def _check_values(name: str, value: Any, spec: TensorSpec) -> NoReturn:
    shape = infer_shape(value)
    if len(shape) <= MAX_RANK:  # `check` is recursive
        try:
            check(value, spec.dtype, shape)
        except ValueMismatchError as error:
            raise invalid_request(f"inputs.{name[:100]}: {error.message}") from None
    raise invalid_request(f"tensor parsing error: {name}")


def _fits(shape: Sequence[int], spec: TensorSpec, row_form: bool) -> bool:
    """Return whether values of a shape fit an input.

    TensorFlow Serving accepts any shape that the graph accepts. Here an empty list fits every
    shape. Trailing dimensions of 1 may be absent, as in its own example, which sends plain numbers
    for an input of shape [n, 1]. In row form, an input without a batch dimension may have one.
    """
    if spec.shape is None or 0 in shape:
        return True
    has_batch = bool(spec.shape) and spec.shape[0] is None
    return _fits_exactly(shape, spec.shape) or (
        row_form and not has_batch and _fits_exactly(shape[1:], spec.shape)
    )


def _fits_exactly(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    padded = (*shape, *[1] * (len(expected) - len(shape)))
    return len(padded) == len(expected) and all(
        n in (None, length) for n, length in zip(expected, padded, strict=True)
    )
