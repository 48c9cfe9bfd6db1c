"""The codec of TensorFlow Serving's `:predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.codecs import Codec, Decoding, Headers, Payload
from client.codecs.batches import Batch
from client.codecs.json.calls import JsonCall
from client.codecs.json.codec import decode_rows, encode_each
from client.codecs.response import Response
from client.codecs.tfs_rest import predict
from client.serving.schema import Schema
from client.serving.tensors import Array


class RestPredictions(Codec):
    """`:predict` in rows or columns."""

    def decode(self, payloads: Sequence[Payload], schema: Schema) -> Decoding:
        """Decode several requests, plain rows of numbers in one pass."""
        return decode_rows(self, payloads, schema)

    def decode_one(self, payload: Payload, schema: Schema) -> JsonCall:
        """Decode one request."""
        return predict.read(payload.body, schema)

    def encode(
        self, batch: Batch, outputs: Mapping[str, Array], schema: Schema, headers: Headers
    ) -> list[Response]:
        """Return the response to each request."""
        predict.check_outputs(outputs, row_form=len(batch.members) > 1)
        return encode_each(
            batch,
            outputs,
            b"",
            headers,
            lambda call, request_outputs: predict.write(request_outputs, row_form=call.row_form),
            lambda call: call.row_form,
        )

    def check(self, payload: Payload) -> None:
        """Raise an error if the body is invalid for every model."""
        predict.check_body(payload.body)
