"""The core that every way in shares: a parsed JSON body becomes a prediction.

The Flask routes and the command line both come through here.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from client.dialects import JsonCall, friendly
from client.errors import ClientError, ServerError
from client.model_server import Deadline, ModelServer, Prediction, Target
from client.schema import Schema

# A request that does not fit what is known of the model may fit a version published since; the
# server is asked again, but no more often than this for requests that are just wrong.
SCHEMA_MIN_AGE_SECONDS = 1.0
SCHEMAS_KEPT = 256


@dataclass(frozen=True)
class _Known:
    schema: Schema
    asked_at: float


class Predictor:
    """Answers JSON requests with a model server, and keeps what it has learnt of the models."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self._known: dict[Target, _Known] = {}
        self._lock = threading.Lock()

    def answer(self, target: Target, body: Any, timeout: float) -> tuple[dict[str, Any], int]:
        """Predict what a request asks for.

        Args:
            target: the model, and the version if one is asked for.
            body: the parsed JSON body.
            timeout: seconds by which the answer must be there.

        Returns:
            The reply's JSON object, and the version that computed it.

        Raises:
            ClientError: the request cannot be answered.
        """
        deadline = Deadline(timeout)
        known = self._schema(target, deadline)
        try:
            request = friendly.read_document(body, known.schema)
            prediction = self._predict(target, known.schema, request, deadline)
        except ClientError as error:
            fresh = self._refreshed(target, known, deadline) if error.status in (400, 404) else None
            if fresh is None or fresh.schema.version == known.schema.version:
                raise
            request = friendly.read_document(body, fresh.schema)
            prediction = self._predict(target, fresh.schema, request, deadline)
        else:
            if prediction.version != known.schema.version:
                request, prediction = self._follow(target, body, request, prediction, deadline)
        reply = friendly.write(prediction.outputs, row_form=request.row_form)
        return orjson.loads(reply), prediction.version

    def schema(self, target: Target, timeout: float) -> Schema:
        """Ask the model server for a model's schema, and remember the answer."""
        return self._ask(target, Deadline(timeout)).schema

    def _follow(
        self,
        target: Target,
        body: Any,
        request: JsonCall,
        prediction: Prediction,
        deadline: Deadline,
    ) -> tuple[JsonCall, Prediction]:
        """Take the reply of a newer version, asking once more if it reads the rows differently."""
        fresh = self._ask(target, deadline).schema
        again = friendly.read_document(body, fresh)
        inputs = request.call.inputs
        same = again.call.inputs.keys() == inputs.keys() and all(
            values.dtype == inputs[name].dtype
            # NaN is a missing number, the same in both.
            and np.array_equal(values, inputs[name], equal_nan=values.dtype.kind == "f")
            for name, values in again.call.inputs.items()
        )
        if same:
            return request, prediction
        return again, self._predict(target, fresh, again, deadline)

    def _predict(
        self, target: Target, schema: Schema, request: JsonCall, deadline: Deadline
    ) -> Prediction:
        return self.server.predict(
            target,
            request.call.inputs,
            signature_name=request.call.signature_name,
            signature=schema.signatures[request.call.signature_name],
            timeout=deadline.left(),
        )

    def _schema(self, target: Target, deadline: Deadline) -> _Known:
        return self._known.get(target) or self._ask(target, deadline)

    def _refreshed(self, target: Target, known: _Known, deadline: Deadline) -> _Known | None:
        if time.monotonic() - known.asked_at < SCHEMA_MIN_AGE_SECONDS:
            return None
        try:
            return self._ask(target, deadline)
        except ServerError:
            return None  # the error at hand says more

    def _ask(self, target: Target, deadline: Deadline) -> _Known:
        try:
            schema = self.server.schema(target, timeout=deadline.left())
        except ClientError as error:
            if error.status == 404:
                with self._lock:
                    self._known.pop(target, None)
            raise
        known = _Known(schema, time.monotonic())
        with self._lock:
            if len(self._known) >= SCHEMAS_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[target] = known
        return known
