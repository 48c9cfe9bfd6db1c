"""`/openapi.json`: the description of the API and the served models, which `/docs` displays."""

from __future__ import annotations

from contextlib import suppress

from client import __version__
from client.errors import ClientError
from client.http import paths
from client.http.messages import HttpRequest, HttpResponse
from client.http.openapi import document
from client.http.responses import json_response
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline

TITLE = "Predictions"
DESCRIPTION = (
    "Predictions of models on TensorFlow Serving: rows or columns in JSON, tables, TensorFlow "
    "Serving's REST API, and the Open Inference Protocol. Columns are those of the served version."
)


class DocsApi:
    """Describes the default model and the models in use."""

    def __init__(self, predictor: Predictor, model: str, *, keys: bool, feedback: bool) -> None:
        self._predictor = predictor
        self._model = model
        self._keys = keys
        self._feedback = feedback
        self._route = Route(paths.OPENAPI, ("GET",), handle=self._openapi)

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        return self._route if request.path == paths.OPENAPI else None

    async def _openapi(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        schemas = []
        for name in dict.fromkeys([self._model, *self._predictor.known_models()]):
            # Leave out a model that is unavailable.
            with suppress(ClientError):
                schemas.append(await self._predictor.schema(Target(name), deadline))
        return json_response(
            document(
                schemas,
                default_model=self._model,
                title=TITLE,
                description=DESCRIPTION,
                version=__version__,
                keys=self._keys,
                feedback=self._feedback,
            )
        )
