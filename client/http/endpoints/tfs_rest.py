"""`/v1`: TensorFlow Serving's REST dialect, with `:explain` and tables beside it."""

from __future__ import annotations

import re
from asyncio import to_thread
from functools import partial

from client.codecs.json.codec import JsonExplanations
from client.codecs.tfs_rest import examples, models
from client.codecs.tfs_rest.codec import RestPredictions
from client.codecs.tfs_rest.routes import CORS, Question, route
from client.errors import ClientError
from client.http.messages import HttpReply, HttpRequest
from client.http.responses import with_version
from client.http.routing import Lane, Route
from client.inference.predictor import Predictor
from client.serving.deadlines import Deadline

# For metrics: callers must not choose label values.
_NAME = re.compile(
    r"/v1/models(?:/[^/:]+)?(/versions/[^/:]+|/labels/[^/:]+)?(/metadata|:\w+)?", re.IGNORECASE
)
_VERBS = (":predict", ":classify", ":regress", ":explain", "/metadata")
# Longer bodies are read in a thread.
LONG_BODY_BYTES = 64 * 1024


class RestApi:
    """Routes everything below `/v1` as TensorFlow Serving's REST port does."""

    def __init__(self, core: Predictor, explanations: JsonExplanations, *, cors: bool) -> None:
        """Create the routes.

        Args:
            core: predicts.
            explanations: the codec of `:explain`.
            cors: whether pages of other origins may read the responses.
        """
        self._core = core
        self._headers = CORS if cors else ()
        self._codecs = {"predict": RestPredictions(), "explain": explanations}

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request; malformed ones get the dialect's own errors."""
        name, asked = _name(request.path), route(request)
        if not isinstance(asked, Question):
            return Route(name, None, handle=self._refuse, headers=self._headers)
        codec = self._codecs.get(asked.verb)
        if codec is None:
            handle = partial(self._answer, asked)
            return Route(name, None, handle=handle, headers=self._headers)
        table = asked.target if asked.verb == "predict" else None
        lane = Lane(asked.target, codec)
        return Route(name, None, lane, table=table, headers=self._headers)

    async def _refuse(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        asked = route(request)
        if isinstance(asked, HttpReply):
            return asked
        raise ClientError(f"{request.method} {request.path}: Not Found", 404)

    async def _answer(self, asked: Question, request: HttpRequest, deadline: Deadline) -> HttpReply:
        if asked.verb == "status":
            return HttpReply(models.write_status(await self._core.status(asked.target, deadline)))
        if asked.verb == "metadata":
            return HttpReply(
                models.write_metadata(await self._core.metadata(asked.target, deadline))
            )
        if len(request.body) > LONG_BODY_BYTES:
            name, sent = await to_thread(examples.read, request.body)
        else:
            name, sent = examples.read(request.body)
        if asked.verb == "classify":
            classified = await self._core.classify(asked.target, sent, name, deadline)
            body = examples.write_classification(classified)
            return with_version(classified.model_spec.version.value, body)
        regressed = await self._core.regress(asked.target, sent, name, deadline)
        body = examples.write_regression(regressed)
        return with_version(regressed.model_spec.version.value, body)


def _name(path: str) -> str:
    match = _NAME.fullmatch(path)
    if match is None or (match[2] and match[2] not in _VERBS):
        return "/v1/<malformed>"
    kind = (match[1] or "").split("/")
    which = f"/{kind[1]}/<{kind[1][:-1]}>" if len(kind) > 1 else ""
    return f"/v1/models/<model>{which.lower()}{match[2] or ''}"
