"""`/v2`: the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from urllib.parse import parse_qs

from client import __version__
from client.codecs.oip import codec as oip
from client.codecs.oip import models as oip_models
from client.codecs.oip.infer import LENGTH_OPTION, OipInferences
from client.errors import ClientError
from client.http import paths
from client.http.endpoints.operations import OperationsApi, available_versions
from client.http.messages import HttpRequest, HttpResponse
from client.http.responses import json_response
from client.http.routing import Lane, Route
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline


class OipApi:
    """Routes everything below `/v2`."""

    def __init__(self, predictor: Predictor, operations: OperationsApi) -> None:
        self._predictor = predictor
        self._operations = operations
        self._codec = OipInferences()
        server = Route(paths.V2, ("GET",), handle=self._server, limited=False)
        self._server_routes = {
            paths.V2: server,
            f"{paths.V2}/": server,
            paths.V2_LIVE: Route(paths.V2_LIVE, ("GET",), handle=self._live, limited=False),
            paths.V2_READY: Route(paths.V2_READY, ("GET",), handle=self._ready, limited=False),
        }

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        path = paths.parse_v2(request.path)
        if path is None:
            return self._server_routes.get(request.path)
        try:
            target = path.target()
        except ClientError as error:
            return Route(path.name, None, handle=partial(_refuse, error))
        if path.verb == "/infer":
            return Route(path.name, ("POST",), Lane(target, self._codec), options=_options)
        handle = self._model_ready if path.verb else self._model
        return Route(path.name, ("GET",), handle=partial(handle, target))

    async def _server(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        return json_response(oip_models.server_metadata(__version__))

    async def _live(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        return json_response(oip_models.live())

    async def _ready(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        return oip_models.ready(await self._operations.is_ready(deadline))

    async def _model_ready(
        self, target: Target, request: HttpRequest, deadline: Deadline
    ) -> HttpResponse:
        if target.label is not None:
            # GetModelStatus ignores labels, so resolve the label first.
            target = Target(
                target.model, (await self._predictor.metadata(target, deadline)).version
            )
        available = await available_versions(self._predictor, target, deadline)
        return oip_models.ready(bool(available), target.model)

    async def _model(
        self, target: Target, request: HttpRequest, deadline: Deadline
    ) -> HttpResponse:
        schema = await self._predictor.metadata(target, deadline)
        versions = [schema.version]
        if target == Target(target.model):
            versions = await available_versions(self._predictor, target, deadline)
        name = parse_qs(request.query).get("signature_name", [""])[0]
        return json_response(oip_models.model_metadata(schema, versions, name))


def _options(request: HttpRequest) -> Mapping[str, str]:
    length = request.headers.get(oip.HEADER_LENGTH.lower())
    return {} if length is None else {LENGTH_OPTION: length}


async def _refuse(error: ClientError, request: HttpRequest, deadline: Deadline) -> HttpResponse:
    raise error
