"""Inference requests of the Open Inference Protocol (V2), as in KServe, Triton and MLServer.

Protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with
its binary tensor data extension. The protocol has one set of inputs per model, TensorFlow Serving
one per signature; the request parameter `signature_name` selects one other than `serving_default`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from client.codecs import Call, lenient_json
from client.codecs.json.arrays import describe
from client.codecs.json.dense import shortest_call
from client.codecs.lenient_json import JsonError
from client.codecs.oip.tensors import check_spec, read_binary, read_json, write_tensor
from client.codecs.response import Response
from client.codecs.signatures import find_signature
from client.errors import ClientError
from client.serving.schema import Schema, Signature, TensorSpec
from client.serving.tensors import Array

BINARY = "application/octet-stream"
# Length in bytes of the JSON before binary tensors, in requests and responses.
HEADER_LENGTH = "Inference-Header-Content-Length"

EXPECTED = 'expected {"inputs": [{"name", "shape", "datatype", "data"}, ...]}'


@dataclass(frozen=True, slots=True)
class Inference:
    """A decoded request.

    Attributes:
        call: the call to the model.
        id: the caller's id for the request, None if there is none.
        binary: whether outputs are binary by default.
        binary_outputs: whether each output that the request names is binary, by name.
        output_specs: specs of the signature's outputs.
    """

    call: Call
    id: str | None
    binary: bool
    binary_outputs: Mapping[str, bool]
    output_specs: Mapping[str, TensorSpec]


def read(body: bytes, schema: Schema, header_length: str | None = None) -> Inference:
    """Decode a request.

    Binary numbers are decoded without copying, except BF16.

    Args:
        body: JSON, followed by the bytes of the binary inputs in the inputs' order.
        schema: schema of the requested version.
        header_length: value of the header `Inference-Header-Content-Length`, None without binary
            inputs.

    Raises:
        ClientError: the request is invalid; the message has the tensor, the value and what is
            expected.
    """
    header, data = _split(body, header_length)
    message = _loads(header)
    if type(message) is not dict:
        raise ClientError(f"the body is {describe(message)}; {EXPECTED}")
    request_id = message.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ClientError(f"id: expected a string, got {describe(request_id)}")
    parameters = _read_parameters(message, "parameters")
    for name in parameters:
        if name.startswith("sequence_"):
            raise ClientError(f"parameters: {name}: sequences are not supported")
    name, signature = find_signature(schema, parameters.get("signature_name", ""))
    inputs = _read_inputs(message.get("inputs"), signature, data)
    binary = _read_flag(parameters, "binary_data_output", "parameters", default=False)
    outputs = _read_outputs(message.get("outputs"), signature, binary)
    call = shortest_call(schema, name, inputs, tuple(outputs))
    return Inference(call, request_id, binary, outputs, signature.outputs)


def write(inference: Inference, outputs: Mapping[str, Array], model: str, version: int) -> Response:
    """Return the response.

    Args:
        inference: the request.
        outputs: the model's outputs; if the request names outputs, they are returned in its order.
        model: the model's name.
        version: the version that computed the outputs.

    Raises:
        ClientError: the protocol has no datatype for an output.
    """
    names = inference.call.output_filter or sorted(outputs)
    tensors, data = [], []
    for name in names:
        binary = inference.binary_outputs.get(name, inference.binary)
        tensor, content = write_tensor(
            name, outputs[name], inference.output_specs.get(name), binary
        )
        tensors.append(tensor)
        data.append(content)
    message: dict[str, Any] = {
        "model_name": model,
        "model_version": str(version),
        "outputs": tensors,
    }
    if inference.id is not None:
        message["id"] = inference.id
    header = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    if all("data" in tensor for tensor in tensors):
        return Response(header)
    return Response(
        b"".join((header, *data)),
        content_type=BINARY,
        headers=((HEADER_LENGTH, str(len(header))),),
    )


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[len(view) :]
    text = header_length.strip()
    is_length = text.isascii() and text.isdigit() and len(text) < 20
    if not is_length or int(text) > len(view):
        raise ClientError(
            f"{HEADER_LENGTH}: expected at most {len(view)}, the length of the body in bytes, "
            f'got "{text[:40]}"'
        )
    return view[: int(text)], view[int(text) :]


def _loads(header: memoryview) -> Any:
    if not header:
        raise ClientError(f"the JSON is empty; {EXPECTED}")
    try:
        return orjson.loads(header)
    except orjson.JSONDecodeError as error:
        not_json = ClientError(f"the body is not JSON: {error}; {EXPECTED}")
    text = bytes(header).removeprefix(codecs.BOM_UTF8)
    if len(text) == len(header) and b"NaN" not in text and b"Infinity" not in text:
        raise not_json
    try:
        # Triton's client writes NaN and infinities as Python does, and its server reads them.
        return lenient_json.loads(text.decode())
    except (JsonError, UnicodeDecodeError):
        raise not_json from None


def _read_parameters(parent: Mapping[str, Any], location: str) -> Mapping[str, Any]:
    parameters = parent.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise ClientError(f"{location}: expected an object, got {describe(parameters)}")
    return parameters


def _read_flag(parameters: Mapping[str, Any], name: str, location: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise ClientError(f"{location}: {name}: expected true or false, got {describe(value)}")
    return value


def _read_inputs(tensors: Any, signature: Signature, data: memoryview) -> dict[str, Array]:
    if type(tensors) is not list:
        raise ClientError(
            f"inputs: expected a list of tensors, got {describe(tensors)}; {EXPECTED}"
        )
    arrays: dict[str, Array] = {}
    offset = 0
    for index, tensor in enumerate(tensors):
        name = _read_name(tensor, f"inputs[{index}]", signature.inputs, arrays)
        spec, location = signature.inputs[name], f'input "{name}"'
        shape = check_spec(tensor, spec, location)
        parameters = _read_parameters(tensor, f"{location}: parameters")
        if "shared_memory_region" in parameters:
            raise ClientError(f"{location}: shared memory is not supported; send the values")
        size = parameters.get("binary_data_size")
        if size is None:
            arrays[name] = read_json(tensor, shape, spec, location)
            continue
        remaining = len(data) - offset
        if type(size) is not int or not 0 <= size <= remaining:
            raise ClientError(
                f"{location}: binary_data_size: expected an integer from 0 to {remaining}, the "
                f"bytes left after the JSON, whose length is {HEADER_LENGTH}, got {describe(size)}"
            )
        arrays[name] = read_binary(data[offset : offset + size], shape, spec, location)
        offset += size
    if offset != len(data):
        raise ClientError(
            f"expected no bytes after those of the last input, got {len(data) - offset}"
        )
    missing = [name for name in signature.inputs if name not in arrays]
    if missing:
        raise ClientError(
            f"inputs: missing {_join_names(missing)}; expected {_join_names(signature.inputs)}"
        )
    return arrays


def _read_outputs(tensors: Any, signature: Signature, binary: bool) -> dict[str, bool]:
    """Return whether each output that the request names is binary, by name."""
    if tensors is None:
        return {}
    if type(tensors) is not list:
        raise ClientError(f"outputs: expected a list of tensors, got {describe(tensors)}")
    is_binary: dict[str, bool] = {}
    for index, tensor in enumerate(tensors):
        location = f"outputs[{index}]"
        name = _read_name(tensor, location, signature.outputs, is_binary)
        parameters = _read_parameters(tensor, f"{location}: parameters")
        for parameter in ("classification", "shared_memory_region"):
            if parameter in parameters:
                raise ClientError(f"{location}: parameters: {parameter} is not supported")
        is_binary[name] = _read_flag(parameters, "binary_data", location, default=binary)
    return is_binary


def _read_name(
    tensor: Any, location: str, known: Mapping[str, TensorSpec], seen: Mapping[str, Any]
) -> str:
    if type(tensor) is not dict:
        raise ClientError(f"{location}: expected an object, got {describe(tensor)}")
    name = tensor.get("name")
    if not isinstance(name, str):
        raise ClientError(f"{location}: name: expected a string, got {describe(name)}")
    if name not in known:
        raise ClientError(f'{location}: unknown name "{name[:100]}"; expected {_join_names(known)}')
    if name in seen:
        raise ClientError(f'{location}: duplicate name "{name}"')
    return name


def _join_names(names: Iterable[str]) -> str:
    return ", ".join(names)
