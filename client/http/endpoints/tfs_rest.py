"""`/v1`: TensorFlow Serving's REST dialect, with `:explain` and tables beside it."""

from __future__ import annotations

import re
from asyncio import to_thread

from client.codecs.tfs_rest import examples, models, predict
from client.codecs.tfs_rest.routes import CORS, Question, route
from client.errors import ClientError, ServerError
from client.http.answers import answer_json, of_version
from client.http.endpoints.predict import explain
from client.http.messages import HttpReply, HttpRequest
from client.http.replies import error_reply
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline

# For the metrics, whose labels must not be callers' words.
_NAME = re.compile(
    r"/v1/models(?:/[^/:]+)?(/versions/[^/:]+|/labels/[^/:]+)?(/metadata|:\w+)?", re.IGNORECASE
)
_VERBS = (":predict", ":classify", ":regress", ":explain", "/metadata")


class RestApi:
    """Answers whatever comes below `/v1` as TensorFlow Serving's REST port does."""

    def __init__(self, core: Predictor, *, cors: bool) -> None:
        """Prepare.

        Args:
            core: predicts.
            cors: whether pages of other origins may read the replies.
        """
        self._core = core
        self._headers = CORS if cors else ()

    def route(self, path: str) -> Route | None:
        """Return what answers a path; also what is malformed is answered by the dialect."""
        return Route(_name(path), self._answer, None, stream=self._stream)

    async def _answer(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        if not self._headers:
            return await self._ask(request, deadline)
        try:
            reply = await self._ask(request, deadline)
        except ClientError as error:
            reply = error_reply(error)
        headers = (*reply.headers, *self._headers)
        return HttpReply(reply.body, reply.status, reply.content_type, headers)

    async def _ask(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        asked = route(request)
        if asked is None:
            raise ClientError(f"{request.method} {request.path}: Not Found", 404)
        if isinstance(asked, HttpReply):
            return asked
        if asked.verb == "predict":
            return await self._predict(asked.target, request, deadline)
        if asked.verb == "explain":
            return await explain(self._core, asked.target, request, deadline)
        if asked.verb == "status":
            versions = await self._core.status(asked.target, deadline)
            return HttpReply(models.write_status(versions))
        if asked.verb == "metadata":
            schema = await self._core.metadata(asked.target, deadline)
            return HttpReply(models.write_metadata(schema))
        return await self._infer(asked, request, deadline)

    async def _predict(self, target: Target, request: HttpRequest, deadline: Deadline) -> HttpReply:
        try:
            await self._core.schema(target, deadline)
        except ServerError:
            # What is wrong with the JSON is told first. Of a long body that takes a while.
            await to_thread(predict.check_body, request.body)
            raise
        call, prediction = await answer_json(self._core, target, request, deadline, predict.read)
        body = predict.write(prediction.outputs, row_form=call.row_form)
        return of_version(prediction.version, body)

    async def _infer(self, asked: Question, request: HttpRequest, deadline: Deadline) -> HttpReply:
        name, sent = examples.read(request.body)
        if asked.verb == "classify":
            classified = await self._core.classify(asked.target, sent, name, deadline)
            body = examples.write_classification(classified)
            return of_version(classified.model_spec.version.value, body)
        regressed = await self._core.regress(asked.target, sent, name, deadline)
        body = examples.write_regression(regressed)
        return of_version(regressed.model_spec.version.value, body)

    def _stream(self, request: HttpRequest) -> Target | None:
        asked = route(request)
        is_predict = isinstance(asked, Question) and asked.verb == "predict"
        return asked.target if isinstance(asked, Question) and is_predict else None


def _name(path: str) -> str:
    match = _NAME.fullmatch(path)
    if match is None or (match[2] and match[2] not in _VERBS):
        return "/v1/<malformed>"
    kind = (match[1] or "").split("/")
    which = f"/{kind[1]}/<{kind[1][:-1]}>" if len(kind) > 1 else ""
    return f"/v1/models/<model>{which.lower()}{match[2] or ''}"
