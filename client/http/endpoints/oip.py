"""`/v2`: the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import parse_qs

from client import __version__
from client.codecs.oip import codec as oip
from client.codecs.oip import models as oip_models
from client.codecs.oip.infer import HEADER_LENGTH, OipInferences
from client.errors import ClientError
from client.http.endpoints.operations import OperationsApi, available_versions
from client.http.messages import HttpReply, HttpRequest
from client.http.responses import json_reply
from client.http.routing import Lane, Route
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline

Answer = Callable[[Target, HttpRequest, Deadline], Awaitable[HttpReply]]


class OipApi:
    """Routes everything below `/v2`."""

    def __init__(self, core: Predictor, operations: OperationsApi) -> None:
        self._core = core
        self._operations = operations
        self._codec = OipInferences()
        self._about_model: dict[str, tuple[str, Answer]] = {
            "model": ("", self._model),
            "model_ready": ("/ready", self._model_ready),
        }

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        try:
            asked = oip_models.route(request.path)
        except ClientError as error:
            name = "/v2/models/<model>/versions/<version>"
            return Route(name, None, handle=partial(_refuse, error))
        if asked is None:
            return None
        if asked.target is None:
            about_server = {"server": self._server, "live": self._live, "ready": self._ready}
            name = "/v2" if asked.what == "server" else f"/v2/health/{asked.what}"
            handle = about_server[asked.what]
            return Route(name, (asked.method,), handle=handle, limited=False)
        which = "" if asked.target.version is None else "/versions/<version>"
        name = f"/v2/models/<model>{which}"
        if asked.what == "infer":
            lane = Lane(asked.target, self._codec)
            return Route(f"{name}/infer", (asked.method,), lane, options=_options)
        suffix, answer = self._about_model[asked.what]
        return Route(name + suffix, (asked.method,), handle=partial(answer, asked.target))

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
            # GetModelStatus ignores labels, so resolve the label first.
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


def _options(request: HttpRequest) -> Mapping[str, str]:
    length = request.headers.get(oip.HEADER_LENGTH.lower())
    return {} if length is None else {HEADER_LENGTH: length}


async def _refuse(error: ClientError, request: HttpRequest, deadline: Deadline) -> HttpReply:
    raise error
