"""`/predict` and `/explain`: the default model, in the project's own dialect."""

from __future__ import annotations

from client.codecs.json.codec import JsonExplanations, JsonPredictions
from client.http import paths
from client.http.messages import HttpRequest
from client.http.routing import Lane, Route
from client.serving.client import Target


class JsonApi:
    """Routes predictions and explanations of the default model."""

    def __init__(self, model: str, explanations: JsonExplanations) -> None:
        target = Target(model)
        self._routes = {
            paths.PREDICT: Route(
                paths.PREDICT, ("POST",), Lane(target, JsonPredictions()), table=target
            ),
            paths.EXPLAIN: Route(paths.EXPLAIN, ("POST",), Lane(target, explanations)),
        }

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        return self._routes.get(request.path)
