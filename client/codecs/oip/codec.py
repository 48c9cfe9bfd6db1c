"""Inference requests of the Open Inference Protocol (V2), as in KServe, Triton and MLServer.

Protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with
its binary tensor data extension. The protocol has one set of inputs per model, TensorFlow Serving
one per signature: the request parameter `signature_name` selects one other than `serving_default`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from client.codecs import Call, lenient_json
from client.codecs.json.arrays import kind_of
from client.codecs.json.dense import shortest_call
from client.codecs.lenient_json import JsonError
from client.codecs.oip.tensors import check_spec, read_binary, read_json, write_tensor
from client.codecs.reply import Reply
from client.codecs.signatures import signature_of
from client.errors import ClientError
from client.serving.schema import Schema, Signature, TensorSpec
from client.serving.tensors import Array

BINARY = "application/octet-stream"
# Length of the JSON in a request or response with binary tensors after it.
HEADER_LENGTH = "Inference-Header-Content-Length"

EXPECTED = 'expected {"inputs": [{"name", "shape", "datatype", "data"}, ...]}'


@dataclass(frozen=True, slots=True)
class Inference:
    """A decoded request.

    Attributes:
        call: the call to the model.
        id: the caller's id for the request, None if there is none.
        binary: whether outputs are binary by default.
        binary_outputs: the same by name, for the outputs that the request names.
        output_specs: dtype and shape of the signature's outputs.
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
        ClientError: it names the tensor, the value and what was expected.
    """
    header, data = _split(body, header_length)
    message = _loads(header)
    if type(message) is not dict:
        raise ClientError(f"the body is {kind_of(message)}; {EXPECTED}")
    identity = message.get("id")
    if identity is not None and not isinstance(identity, str):
        raise ClientError(f"id: expected a string, got {kind_of(identity)}")
    parameters = _parameters(message, "parameters")
    for name in parameters:
        if name.startswith("sequence_"):
            raise ClientError(f"parameters: {name}: sequences are not supported")
    name, signature = signature_of(schema, parameters.get("signature_name", ""))
    inputs = _read_inputs(message.get("inputs"), signature, data)
    binary = _flag(parameters, "binary_data_output", "parameters", default=False)
    outputs = _read_outputs(message.get("outputs"), signature, binary)
    call = shortest_call(schema, name, inputs, tuple(outputs))
    return Inference(call, identity, binary, outputs, signature.outputs)


def write(inference: Inference, outputs: Mapping[str, Array], model: str, version: int) -> Reply:
    """Return the response.

    Args:
        inference: the request.
        outputs: the model's outputs; those that the request names come in that order.
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
    reply: dict[str, Any] = {"model_name": model, "model_version": str(version), "outputs": tensors}
    if inference.id is not None:
        reply["id"] = inference.id
    header = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    if all("data" in tensor for tensor in tensors):
        return Reply(header)
    return Reply(
        b"".join((header, *data)),
        content_type=BINARY,
        headers=((HEADER_LENGTH, str(len(header))),),
    )


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[len(whole) :]
    text = header_length.strip()
    is_length = text.isascii() and text.isdigit() and len(text) < 20
    if not is_length or int(text) > len(whole):
        raise ClientError(
            f"{HEADER_LENGTH}: expected at most {len(whole)}, the length of the body in bytes, "
            f'got "{text[:40]}"'
        )
    return whole[: int(text)], whole[int(text) :]


def _loads(header: memoryview) -> Any:
    if not header:
        raise ClientError(f"the JSON is empty; {EXPECTED}")
    try:
        return orjson.loads(header)
    except orjson.JSONDecodeError as error:
        message = ClientError(f"the body is not JSON: {error}; {EXPECTED}")
    text = bytes(header).removeprefix(codecs.BOM_UTF8)
    if len(text) == len(header) and b"NaN" not in text and b"Infinity" not in text:
        raise message
    try:
        # Triton's client writes NaN and infinities as Python does, and its server reads them.
        return lenient_json.loads(text.decode())
    except (JsonError, UnicodeDecodeError):
        raise message from None


def _parameters(holder: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise ClientError(f"{place}: expected an object, got {kind_of(parameters)}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, place: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise ClientError(f"{place}: {name}: expected true or false, got {kind_of(value)}")
    return value


def _read_inputs(tensors: Any, signature: Signature, data: memoryview) -> dict[str, Array]:
    if type(tensors) is not list:
        raise ClientError(f"inputs: expected a list of tensors, got {kind_of(tensors)}; {EXPECTED}")
    arrays: dict[str, Array] = {}
    at = 0
    for index, tensor in enumerate(tensors):
        name = _name(tensor, f"inputs[{index}]", signature.inputs, arrays)
        spec, place = signature.inputs[name], f'input "{name}"'
        shape = check_spec(tensor, spec, place)
        parameters = _parameters(tensor, f"{place}: parameters")
        if "shared_memory_region" in parameters:
            raise ClientError(f"{place}: shared memory is not supported; send the values")
        size = parameters.get("binary_data_size")
        if size is None:
            arrays[name] = read_json(tensor, shape, spec, place)
            continue
        if type(size) is not int or not 0 <= size <= len(data) - at:
            raise ClientError(
                f"{place}: binary_data_size: expected an integer from 0 to {len(data) - at}, the "
                f"bytes left after the JSON, whose length is {HEADER_LENGTH}, got {kind_of(size)}"
            )
        arrays[name] = read_binary(data[at : at + size], shape, spec, place)
        at += size
    if at != len(data):
        raise ClientError(f"expected no bytes after those of the last input, got {len(data) - at}")
    missing = [name for name in signature.inputs if name not in arrays]
    if missing:
        raise ClientError(
            f"inputs: missing {_listing(missing)}; expected {_listing(signature.inputs)}"
        )
    return arrays


def _read_outputs(tensors: Any, signature: Signature, binary: bool) -> dict[str, bool]:
    """Return whether each requested output is to be binary, by name."""
    if tensors is None:
        return {}
    if type(tensors) is not list:
        raise ClientError(f"outputs: expected a list of tensors, got {kind_of(tensors)}")
    wanted: dict[str, bool] = {}
    for index, tensor in enumerate(tensors):
        place = f"outputs[{index}]"
        name = _name(tensor, place, signature.outputs, wanted)
        parameters = _parameters(tensor, f"{place}: parameters")
        for other in ("classification", "shared_memory_region"):
            if other in parameters:
                raise ClientError(f"{place}: parameters: {other} is not supported")
        wanted[name] = _flag(parameters, "binary_data", place, default=binary)
    return wanted


def _name(tensor: Any, place: str, known: Mapping[str, TensorSpec], seen: Mapping[str, Any]) -> str:
    if type(tensor) is not dict:
        raise ClientError(f"{place}: expected an object, got {kind_of(tensor)}")
    name = tensor.get("name")
    if not isinstance(name, str):
        raise ClientError(f"{place}: name: expected a string, got {kind_of(name)}")
    if name not in known:
        raise ClientError(f'{place}: unknown name "{name[:100]}"; expected {_listing(known)}')
    if name in seen:
        raise ClientError(f'{place}: duplicate name "{name}"')
    return name


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names)
