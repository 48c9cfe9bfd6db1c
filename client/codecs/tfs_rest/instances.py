"""Row form: each instance is an object with a value for each input, or the only input's value."""

from __future__ import annotations

from typing import Any

from client.codecs.tfs_rest.document import Members, describe, invalid_request
from client.codecs.tfs_rest.tensors import (
    ValueMismatchError,
    check,
    infer_shape,
    is_b64,
    to_array,
)
from client.errors import ClientError
from client.serving.schema import Signature
from client.serving.tensors import MAX_RANK, Array

PLAIN_LIST = (
    "instances is a plain list, but expecting list of objects as multiple input tensors required "
    "as per tensorinfo_map"
)


def read_instances(rows: list[Any], signature: Signature) -> dict[str, Array]:
    """Return an array for each input, with one row per instance.

    The first of duplicate keys in an instance counts.

    Raises:
        ClientError: an instance does not fit the signature.
    """
    if _is_object(rows[0]):
        columns = _columns(rows, signature)
    elif len(signature.inputs) > 1:
        raise invalid_request(PLAIN_LIST)
    else:
        columns = {next(iter(signature.inputs)): rows}
    arrays = {}
    for name, values in columns.items():
        array = to_array(values, signature.inputs[name].dtype)
        if array is None:
            _check(rows, signature)
            raise invalid_request(f"tensor parsing error: {name}")  # more dimensions than MAX_RANK
        arrays[name] = array
    return arrays


def _columns(rows: list[Any], signature: Signature) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in signature.inputs}
    checked = False
    for row in rows:
        members = dict(reversed(row)) if _is_object(row) else {}
        if not checked and (members.keys() != columns.keys() or len(row) != len(columns)):
            _check(rows, signature)
            checked = True  # no error: the row only has duplicate keys
        for name, values in columns.items():
            values.append(members[name])
    return columns


def _check(rows: list[Any], signature: Signature) -> None:
    """Raise the first error in the instances, if any."""
    has_objects = _is_object(rows[0])
    seen: dict[str, tuple[int, list[int]]] = {}
    for index, row in enumerate(rows):
        if _is_object(row) != has_objects:
            expected = "an object like instances[0]" if has_objects else "a value or a list"
            raise invalid_request(f"instances[{index}]: expected {expected}, got {describe(row)}")
        for name, value in row if has_objects else ((next(iter(signature.inputs)), row),):
            try:
                _check_value(name, value, signature, seen)
            except ClientError as error:
                raise _instance_error(index, name if has_objects else "", error) from None
        if has_objects:
            absent = [name for name in signature.inputs if all(name != key for key, _ in row)]
            if absent:
                raise invalid_request(
                    f'instances[{index}]: "{absent[0]}" is missing; '
                    f"expected {', '.join(signature.inputs)}"
                )


def _instance_error(index: int, name: str, error: ClientError) -> ClientError:
    # As in TensorFlow Serving, every error in an instance is a 400, even if its own status is 501.
    if isinstance(error, ValueMismatchError) or error.status == 501:
        location = f"instances[{index}].{name[:100]}" if name else f"instances[{index}]"
        return invalid_request(f"{location}: {error.message}")
    key = f" key: {name[:100]}" if name else ""
    return invalid_request(
        f"Failed to process element: {index}{key} of 'instances' list. "
        f"Error: INVALID_ARGUMENT: {error.message}"
    )


def _check_value(
    name: str, value: Any, signature: Signature, seen: dict[str, tuple[int, list[int]]]
) -> None:
    if name not in signature.inputs:
        raise invalid_request(f"JSON object: does not have named input: {name[:100]}")
    shape = infer_shape(value)
    if len(shape) >= MAX_RANK:
        return  # rejected once all rows are checked; `check` is recursive
    size = check(value, signature.inputs[name].dtype, shape)
    expected_size, expected_shape = seen.setdefault(name, (size, shape))
    if size != expected_size:
        raise invalid_request(f"Expecting tensor size: {expected_size} but got: {size}")
    if shape != expected_shape:
        raise invalid_request(
            f"Expecting shape {_format_shape(expected_shape)} but got: {_format_shape(shape)}"
        )


def _is_object(value: Any) -> bool:
    return type(value) is Members and not is_b64(value)


def _format_shape(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
