"""`/v2`: the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import parse_qs

from client import __version__
from client.codecs import Call
from client.codecs.oip import codec as oip
from client.codecs.oip import models as oip_models
from client.errors import ClientError
from client.http.answers import VERSION_HEADER
from client.http.endpoints.operations import OperationsApi, available_versions
from client.http.messages import HttpReply, HttpRequest
from client.http.replies import json_reply
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema

Answer = Callable[[Target, HttpRequest, Deadline], Awaitable[HttpReply]]


class OipApi:
    """Answers whatever comes below `/v2`."""

    def __init__(self, core: Predictor, operations: OperationsApi) -> None:
        self._core = core
        self._operations = operations
        self._about_model: dict[str, tuple[str, Answer]] = {
            "model": ("", self._model),
            "model_ready": ("/ready", self._model_ready),
            "infer": ("/infer", self._infer),
        }

    def route(self, path: str) -> Route | None:
        """Return what answers a path."""
        try:
            asked = oip_models.route(path)
        except ClientError as error:
            return Route("/v2/models/<model>/versions/<version>", partial(_refuse, error), None)
        if asked is None:
            return None
        if asked.target is None:
            about_server = {"server": self._server, "live": self._live, "ready": self._ready}
            name = "/v2" if asked.what == "server" else f"/v2/health/{asked.what}"
            return Route(name, about_server[asked.what], (asked.method,), limited=False)
        which = "" if asked.target.version is None else "/versions/<version>"
        suffix, answer = self._about_model[asked.what]
        handle = partial(answer, asked.target)
        return Route(f"/v2/models/<model>{which}{suffix}", handle, (asked.method,))

    async def _server(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        return json_reply(oip_models.server_metadata(__version__))

    async def _live(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        return json_reply(oip_models.live())

    async def _ready(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        return oip_models.ready(await self._operations.is_ready(deadline))

    async def _model_ready(
        self, target: Target, request: HttpRequest, deadline: Deadline
    ) -> HttpReply:
        if target.label is not None:
            # The server's status does not look at labels.
            target = Target(target.model, (await self._core.metadata(target, deadline)).version)
        available = await available_versions(self._core, target, deadline)
        return oip_models.ready(bool(available), target.model)

    async def _model(self, target: Target, request: HttpRequest, deadline: Deadline) -> HttpReply:
        schema = await self._core.metadata(target, deadline)
        versions = [schema.version]
        if target == Target(target.model):
            versions = await available_versions(self._core, target, deadline)
        name = parse_qs(request.query).get("signature_name", [""])[0]
        return json_reply(oip_models.model_metadata(schema, versions, name))

    async def _infer(self, target: Target, request: HttpRequest, deadline: Deadline) -> HttpReply:
        length = request.headers.get(oip.HEADER_LENGTH.lower())
        inference: oip.Inference | None = None

        def read(schema: Schema) -> Call:
            nonlocal inference
            inference = oip.read(request.body, schema, length)
            return inference.call

        _, prediction = await self._core.answer(target, read, deadline, len(request.body))
        assert inference is not None
        reply = oip.write(inference, prediction.outputs, target.model, prediction.version)
        headers = (*reply.headers, (VERSION_HEADER, str(prediction.version)))
        return HttpReply(reply.body, reply.status, reply.content_type, headers)


async def _refuse(error: ClientError, request: HttpRequest, deadline: Deadline) -> HttpReply:
    raise error
