"""Golden rows: a check that a server computes what training computed.

A model's description contains a few rows with their probabilities. The client sends them to a
server that has a new version, and again periodically, since another server may replace it at the
same address.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import grpc
import numpy as np
import orjson

from client.codecs.json import rows
from client.errors import ClientError, ServerError
from client.serving.async_client import AsyncServingClient
from client.serving.flows import Target
from client.serving.pool import Server
from client.serving.schema import Schema

log = logging.getLogger(__name__)

RESULTS = OK, WRONG, NONE = "ok", "wrong", "none"
# Servers compute in float32 what training computed in float64.
TOLERANCE = 1e-5
MAX_RESULTS = 1024
# Seconds for which a result is valid.
RECHECK_SECONDS = {OK: 60.0, WRONG: 5.0, NONE: float("inf")}
# Errors that say nothing about the server's computation.
_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)

_Key = tuple[Server, str, int]
# Called with the model, the version, the server's address and the result, None once forgotten.
GoldenObserver = Callable[[str, int, str, str | None], None]


class GoldenRows:
    """Checks versions with their golden rows, and keeps the result on each server."""

    def __init__(self, client: AsyncServingClient, observe: GoldenObserver) -> None:
        """Start without results.

        Args:
            client: the client of the servers.
            observe: called with each result.
        """
        self._client = client
        self._observe = observe
        self._results: dict[_Key, str] = {}
        self._expires: dict[_Key, float] = {}
        # Lets the common path, without a wrong result, skip the lookup.
        self.any_wrong = False
        client.pool.on_leave = self._forget_all

    def result(self, server: Server, model: str, version: int) -> str | None:
        """Return "ok", "wrong", or "none" without golden rows; None if not yet known."""
        return self._results.get((server, model, version))

    async def check(self, schema: Schema, server: Server) -> None:
        """Check a server with a version's golden rows, unless a recent result is still valid."""
        key = (server, schema.model, schema.version)
        now = time.monotonic()
        if now < self._expires.get(key, 0.0):
            return
        self._expires[key] = now + RECHECK_SECONDS[WRONG]  # prevents concurrent checks
        result = await self._compare(schema, server)
        if result is None or server not in self._client.pool.servers:
            self._expires.pop(key, None)
            return
        self._expires[key] = time.monotonic() + RECHECK_SECONDS[result]
        self._results[key] = result
        while len(self._results) > MAX_RESULTS:
            self.forget(*next(iter(self._results)))
        self.any_wrong = WRONG in self._results.values()
        self._observe(schema.model, schema.version, server.address, result)

    def wrong_results(self) -> list[tuple[Server, str, int]]:
        """Return the servers, models and versions with a wrong result."""
        return [key for key, result in self._results.items() if result == WRONG]

    def forget(self, server: Server, model: str, version: int) -> None:
        """Forget the result of a version that a server no longer has."""
        if self._results.pop((server, model, version), None) is not None:
            self._expires.pop((server, model, version), None)
            self.any_wrong = WRONG in self._results.values()
            self._observe(model, version, server.address, None)

    def _forget_all(self, server: Server) -> None:
        """Forget the results of a server that has left."""
        for key in [key for key in self._results if key[0] is server]:
            self.forget(*key)

    async def _compare(self, schema: Schema, server: Server) -> str | None:
        """Return the result; None if the server did not answer."""
        golden = schema.description.golden if schema.description is not None else None
        if not golden:
            return NONE
        try:
            document = orjson.loads(golden)
            expected = np.array(document["probability"], np.float64)
            call = rows.read_document({"inputs": document["rows"]}, schema).call
        except (ClientError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "model %s: version %d has golden rows in an unknown format: %s",
                *(schema.model, schema.version, error),
            )
            return NONE
        try:
            prediction = await self._client.predict(
                Target(schema.model, schema.version),
                call.inputs,
                signature_name=call.signature_name,
                signature=schema.signatures.get(call.signature_name),
                server=server,
            )
        except ClientError as error:
            if isinstance(error, ServerError) and error.code in _NO_ANSWER:
                return None
            computed, message = np.empty(0), error.message
        else:
            computed = prediction.outputs.get("probability", np.empty(0))
            message = f"expected {expected.tolist()}, got {computed.tolist()}"
        if (
            computed.dtype.kind == "f"
            and computed.shape == expected.shape
            and np.allclose(computed, expected, rtol=TOLERANCE, atol=TOLERANCE)
        ):
            return OK
        if self.result(server, schema.model, schema.version) != WRONG:
            log.error(
                "model %s: version %d on %s answers its golden rows wrongly: %s",
                *(schema.model, schema.version, server.address, message[:500]),
            )
        return WRONG
