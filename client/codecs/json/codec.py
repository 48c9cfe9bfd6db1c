"""Codecs of the project's own dialect: predictions and explanations in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from client.codecs import Codec, Decoding, Headers, Payload
from client.codecs.batches import Batch
from client.codecs.json import explanations, fast, rows
from client.codecs.json.calls import JsonCall
from client.codecs.json_outputs import encode_rows
from client.codecs.response import JSON, Response
from client.errors import ClientError
from client.serving.schema import Schema
from client.serving.tensors import Array

PROBABILITY, LABEL = "probability", "label"


class JsonPredictions(Codec):
    """`/predict`: rows or columns; responses hold the model, its version and its threshold."""

    def decode(self, payloads: Sequence[Payload], schema: Schema) -> Decoding:
        """Decode several requests, plain rows of numbers in one pass."""
        return decode_rows(self, payloads, schema)

    def decode_one(self, payload: Payload, schema: Schema) -> JsonCall:
        """Decode one request."""
        call = rows.read(payload.body, schema)
        name = call.call.signature_name
        if call.threshold is not None and not has_threshold(schema, name):
            raise ClientError(f'threshold: signature "{name}" has no label that depends on it')
        return call

    def encode(
        self, batch: Batch, outputs: Mapping[str, Array], schema: Schema, headers: Headers
    ) -> list[Response]:
        """Return the response to each request."""
        members: dict[str, Any] = {"model": schema.model, "version": schema.version}
        default = schema.description.threshold if schema.description is not None else None
        if PROBABILITY not in outputs or LABEL not in outputs:
            default = None
        tail = b"," + orjson.dumps(_with_threshold(members, default))[1:-1]
        rows.check_types(outputs)

        def encode_one(call: JsonCall, request_outputs: Mapping[str, Array]) -> bytes:
            if call.threshold is None or default is None:
                return rows.write(request_outputs, row_form=call.row_form, tail=tail)
            request_outputs = _relabel(request_outputs, call.threshold, schema)
            own_tail = b"," + orjson.dumps(_with_threshold(members, call.threshold))[1:-1]
            return rows.write(request_outputs, row_form=call.row_form, tail=own_tail)

        return encode_each(
            batch,
            outputs,
            tail,
            headers,
            encode_one,
            lambda call: bool(call.row_form and call.threshold is None),
        )


class JsonExplanations(Codec):
    """`/explain`: each column's contribution to the log-odds."""

    def decode_one(self, payload: Payload, schema: Schema) -> JsonCall:
        """Decode one request."""
        return explanations.read(payload.body, schema)

    def encode(
        self, batch: Batch, outputs: Mapping[str, Array], schema: Schema, headers: Headers
    ) -> list[Response]:
        """Return the response to each request."""
        return [
            Response(explanations.write(request_outputs, schema), 200, JSON, headers)
            for request_outputs in split_outputs(batch, outputs)
        ]


def decode_rows(codec: Codec, payloads: Sequence[Payload], schema: Schema) -> Decoding:
    """Decode plain rows of numbers in one pass, and other requests one by one."""
    batch, others = fast.read_batch([payload.body for payload in payloads], schema)
    if not others:
        return Decoding([batch] if batch is not None else [], {})
    decoding = codec.decode_each(payloads, others, schema)
    if batch is not None:
        decoding.batches.append(batch)
    return decoding


def encode_each(
    batch: Batch,
    outputs: Mapping[str, Array],
    tail: bytes,
    headers: Headers,
    encode_one: Callable[[Any, Mapping[str, Array]], bytes],
    is_plain: Callable[[Any], bool],
) -> list[Response]:
    """Return the response to each request, encoding plain rows in one pass.

    Args:
        batch: the requests.
        outputs: outputs of the whole batch.
        tail: further members of each response's object, each preceded by a comma.
        headers: headers of each response.
        encode_one: returns the body for one decoded request and its outputs.
        is_plain: returns whether a request's rows can be encoded without `encode_one`.
    """
    if len(batch.members) == 1:
        return [Response(encode_one(batch.decoded[0], outputs), 200, JSON, headers)]
    texts = encode_rows(outputs)
    responses = []
    for call, (start, stop) in zip(batch.decoded, batch.bounds(), strict=True):
        if is_plain(call):
            # Joining a one-item list costs more than indexing.
            text = texts[start] if stop - start == 1 else b",".join(texts[start:stop])
            body = b"".join((b'{"predictions":[', text, b"]", tail, b"}"))
        else:
            body = encode_one(call, {n: array[start:stop] for n, array in outputs.items()})
        responses.append(Response(body, 200, JSON, headers))
    return responses


def split_outputs(batch: Batch, outputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
    """Return the outputs of each request."""
    if len(batch.members) == 1:
        return [outputs]
    return [
        {name: array[start:stop] for name, array in outputs.items()}
        for start, stop in batch.bounds()
    ]


def _relabel(outputs: Mapping[str, Array], threshold: float, schema: Schema) -> Mapping[str, Array]:
    """Return the outputs with labels for another threshold."""
    assert schema.description is not None
    names = np.array([name.encode() for name in schema.description.class_names], object)
    labels = names[(outputs[PROBABILITY] >= np.float32(threshold)).astype(np.int64)]
    return {**outputs, LABEL: labels}


def has_threshold(schema: Schema, signature_name: str) -> bool:
    """Return whether a signature's labels depend on a probability threshold."""
    signature = schema.signatures.get(signature_name)
    outputs = signature.outputs if signature is not None else {}
    return schema.description is not None and {PROBABILITY, LABEL} <= outputs.keys()


def _with_threshold(members: Mapping[str, Any], threshold: float | None) -> dict[str, Any]:
    return dict(members) if threshold is None else {**members, "threshold": threshold}
