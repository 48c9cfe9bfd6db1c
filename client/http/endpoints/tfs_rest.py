"""`/v1`: TensorFlow Serving's REST dialect, extended by `:explain` and tables."""

from __future__ import annotations

import re
from asyncio import to_thread
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from client.arms.arm_call import ArmCall
from client.arms.arms import Arms
from client.codecs.json.codec import JsonExplanations
from client.codecs.tfs_rest import examples, models
from client.codecs.tfs_rest.codec import RestPredictions
from client.errors import ClientError
from client.http import paths
from client.http.errors import error_response
from client.http.messages import HttpRequest, HttpResponse
from client.http.responses import arm_headers
from client.http.routing import Lane, Route
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline

# Methods known to TensorFlow Serving's HTTP library, which rejects all others itself.
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
VERBS = (":predict", ":classify", ":regress", ":explain")

# TensorFlow Serving adds these to every response with `--rest_api_enable_cors_support`.
CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
_ORIGIN = re.compile(r"https?://")
# Longer bodies are decoded in a thread.
LONG_BODY_BYTES = 64 * 1024


class RestApi:
    """Routes everything below `/v1` as TensorFlow Serving's REST port does."""

    def __init__(
        self,
        predictor: Predictor,
        explanations: JsonExplanations,
        arms: Arms,
        *,
        cors: bool,
    ) -> None:
        """Create the routes.

        Args:
            predictor: makes the predictions.
            explanations: the codec of `:explain`.
            arms: the arms of rollouts.
            cors: whether pages from other origins may read the responses.
        """
        self._predictor = predictor
        self._arms = arms
        self._headers = CORS if cors else ()
        self._codecs = {":predict": RestPredictions(), ":explain": explanations}

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request; malformed ones get the dialect's own errors."""
        path = paths.parse_v1(request.path)
        name = "/v1/<malformed>" if path is None else path.name
        try:
            parsed = parse(request)
        except ClientError as error:
            return Route(name, None, handle=partial(_refuse, error), headers=self._headers)
        if parsed is None:
            return Route(name, None, handle=_answer_options, headers=self._headers)
        codec = self._codecs.get(parsed.verb)
        if codec is None:
            handle = partial(self._answer, parsed)
            return Route(name, None, handle=handle, headers=self._headers)
        table = parsed.target if parsed.verb == ":predict" else None
        lane = Lane(parsed.target, codec)
        return Route(name, None, lane, table=table, headers=self._headers)

    async def _answer(
        self, parsed: RestRequest, request: HttpRequest, deadline: Deadline
    ) -> HttpResponse:
        if not parsed.verb:
            return HttpResponse(
                models.write_status(await self._predictor.status(parsed.target, deadline))
            )
        if parsed.verb == "/metadata":
            return HttpResponse(
                models.write_metadata(await self._predictor.metadata(parsed.target, deadline))
            )
        if len(request.body) > LONG_BODY_BYTES:
            name, content = await to_thread(examples.read, request.body)
        else:
            name, content = examples.read(request.body)
        return await self._arms.request(
            parsed.target,
            request.headers,
            deadline,
            lambda arm_call: self._infer(parsed.verb, content, name, arm_call),
        )

    async def _infer(
        self, verb: str, content: Any, signature_name: str, arm_call: ArmCall
    ) -> HttpResponse:
        """Classify or regress examples with one version."""
        is_classify = verb == ":classify"
        response = await self._predictor.classify_or_regress(
            "classify" if is_classify else "regress",
            arm_call.target,
            content,
            signature_name,
            arm_call.deadline,
            on_trial=arm_call.on_trial,
        )
        arm_call.check({"scores": np.array(examples.scores(response), np.float32)})
        write = examples.write_classification if is_classify else examples.write_regression
        headers = arm_headers(response.model_spec.version.value, arm_call.arm)
        return HttpResponse(write(response), headers=headers)


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request about a model.

    Attributes:
        verb: `:predict`, `:classify`, `:regress`, `:explain`, `/metadata`; empty for its status.
        target: the model, and its version if the path has one.
    """

    verb: str
    target: Target


def parse(request: HttpRequest) -> RestRequest | None:
    """Return the verb and the target of a request, or None for OPTIONS; the body is ignored.

    Paths are case-insensitive, but verbs are case-sensitive.

    Raises:
        ClientError: the method, path or version is invalid; most messages are TensorFlow
            Serving's.
    """
    method = request.method
    if method not in METHODS:
        raise ClientError(f"{method} is not implemented", 501)
    if method == "OPTIONS":
        return None
    path = paths.parse_v1(request.path)
    if path is None or method != ("POST" if path.verb.startswith(":") else "GET"):
        raise _malformed(request)
    if method == "POST" and path.model is None:
        raise _malformed(request)
    target = path.target()
    if method == "GET":
        return RestRequest(path.verb if path.verb == "/metadata" else "", target)
    if path.verb not in VERBS:
        raise _malformed(request)
    return RestRequest(path.verb, target)


def _malformed(request: HttpRequest) -> ClientError:
    query = f"?{request.query}" if request.query else ""
    return ClientError(f"Malformed request: {request.method} {request.path}{query}")


async def _refuse(error: ClientError, request: HttpRequest, deadline: Deadline) -> HttpResponse:
    return error_response(error, request.path)


async def _answer_options(request: HttpRequest, deadline: Deadline) -> HttpResponse:
    is_allowed = _ORIGIN.search(request.headers.get("origin", ""))
    return HttpResponse(b"", 200 if is_allowed else 400, "text/html")
