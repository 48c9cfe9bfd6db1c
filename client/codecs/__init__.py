"""Codecs: request bodies to arrays, and arrays to response bodies, one module per dialect.

A codec knows neither HTTP nor batching. `client.http.endpoints.registry` lists the dialects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from client.codecs.batches import Batch, Call, Decoded, group_into_batches
from client.codecs.json.calls import JsonCall
from client.codecs.response import Headers, Response
from client.errors import ClientError
from client.serving.schema import Schema
from client.serving.tensors import Array

__all__ = ["Batch", "Call", "Codec", "Decoded", "Decoding", "Headers", "JsonCall", "Payload"]


class Payload(NamedTuple):
    """An undecoded request.

    Attributes:
        body: the decompressed body.
        options: parameters from outside the body, by name.
    """

    body: bytes
    options: Mapping[str, str] = MappingProxyType({})


class Decoding(NamedTuple):
    """Decoded requests, grouped by the call that can answer them, and errors for the others."""

    batches: list[Batch]
    errors: dict[int, ClientError]


class Codec(ABC):
    """A dialect of requests and responses."""

    @abstractmethod
    def decode_one(self, payload: Payload, schema: Schema) -> Decoded:
        """Decode one request.

        Raises:
            ClientError: the request is invalid; the message has the field, the value and what is
                expected.
        """

    def decode(self, payloads: Sequence[Payload], schema: Schema) -> Decoding:
        """Decode several requests; an error in one does not affect the others."""
        return self.decode_each(payloads, range(len(payloads)), schema)

    def decode_each(
        self, payloads: Sequence[Payload], members: Sequence[int], schema: Schema
    ) -> Decoding:
        """Decode the requests at the given indexes one by one."""
        decoded: dict[int, Decoded] = {}
        errors: dict[int, ClientError] = {}
        for index in members:
            try:
                decoded[index] = self.decode_one(payloads[index], schema)
            except ClientError as error:
                errors[index] = error
        return Decoding(group_into_batches(decoded, schema), errors)

    @abstractmethod
    def encode(
        self, batch: Batch, outputs: Mapping[str, Array], schema: Schema, headers: Headers
    ) -> list[Response]:
        """Return the response to each request of a batch.

        Args:
            batch: the requests.
            outputs: the model's outputs, with a row for each row of a batch of several requests.
            schema: schema of the version that computed them.
            headers: headers of every response.

        Raises:
            ClientError: this dialect cannot represent the outputs.
        """

    def ids(self, batch: Batch) -> Sequence[str | None] | None:
        """Return the caller's id for each request, None if the dialect has no ids."""
        return None

    def check(self, payload: Payload) -> None:  # noqa: B027 - most dialects have nothing to check
        """Raise an error if the request is invalid for every model."""
