"""The codec of the Open Inference Protocol's `infer`."""

from __future__ import annotations

from collections.abc import Mapping

from client.codecs import Codec, Headers, Payload
from client.codecs.batches import Batch
from client.codecs.json.codec import split_outputs
from client.codecs.oip import codec as oip
from client.codecs.response import Response
from client.serving.schema import Schema
from client.serving.tensors import Array

LENGTH_OPTION = "header_length"


class OipInferences(Codec):
    """`infer`; the option `header_length` is the length of the JSON before binary tensors."""

    def decode_one(self, payload: Payload, schema: Schema) -> oip.Inference:
        """Decode one request."""
        return oip.read(payload.body, schema, payload.options.get(LENGTH_OPTION))

    def encode(
        self, batch: Batch, outputs: Mapping[str, Array], schema: Schema, headers: Headers
    ) -> list[Response]:
        """Return the response to each request."""
        responses = []
        for inference, arrays in zip(batch.decoded, split_outputs(batch, outputs), strict=True):
            response = oip.write(inference, arrays, schema.model, schema.version)
            responses.append(response._replace(headers=(*response.headers, *headers)))
        return responses

    def ids(self, batch: Batch) -> list[str | None]:
        """Return the ids of the requests."""
        return [inference.id for inference in batch.decoded]
