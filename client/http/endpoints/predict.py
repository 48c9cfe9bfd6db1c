"""`/predict` and `/explain`, about one model: our own dialect, with errors for people."""

from __future__ import annotations

from client.codecs.json import explanations
from client.codecs.json import rows as friendly
from client.http.answers import answer_json, of_version
from client.http.messages import HttpReply, HttpRequest
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline


class FriendlyApi:
    """Answers with the model, and the version that has computed, in the reply."""

    def __init__(self, core: Predictor, model: str) -> None:
        self._core = core
        self._target = Target(model)
        self._routes = {
            "/predict": Route("/predict", self._predict, ("POST",), stream=self._stream),
            "/explain": Route("/explain", self._explain, ("POST",)),
        }

    def route(self, path: str) -> Route | None:
        """Return what answers a path."""
        return self._routes.get(path)

    async def _predict(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        call, prediction = await answer_json(
            self._core, self._target, request, deadline, friendly.read
        )
        body = friendly.write(
            prediction.outputs, row_form=call.row_form, facts=self._facts(prediction)
        )
        return of_version(prediction.version, body)

    async def _explain(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        return await explain(self._core, self._target, request, deadline)

    def _stream(self, request: HttpRequest) -> Target:
        return self._target

    def _facts(self, prediction: Prediction) -> dict[str, object]:
        return {"model": self._target.model, "version": prediction.version}


async def explain(
    core: Predictor, target: Target, request: HttpRequest, deadline: Deadline
) -> HttpReply:
    """Answer with each column's share of the log-odds of each row."""
    schema = await core.schema(target, deadline)
    _, prediction = await answer_json(core, target, request, deadline, explanations.read)
    if prediction.version != schema.version:
        schema = await core.schema(Target(target.model, prediction.version), deadline)
    return of_version(prediction.version, explanations.write(prediction.outputs, schema))
