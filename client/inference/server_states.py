"""The states of a model's versions on each model server, requested at most once a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from client.errors import NotFoundError, ServerError
from client.serving import deadlines
from client.serving.async_client import AsyncServingClient
from client.serving.client import Target
from client.serving.pool import Server
from client.serving.protos import ModelVersionStatus

MAX_AGE_SECONDS = 1.0
TIMEOUT_SECONDS = 1.0

ANSWERS, LEFT_OUT, UNREACHABLE = "answers", "left out", "unreachable"


@dataclass(frozen=True)
class ServerState:
    """A model server, and its versions of a model.

    Attributes:
        address: the server's address.
        state: `ANSWERS`, `LEFT_OUT` while it is ejected, or `UNREACHABLE`.
        versions: the state of each version, newest first, such as `AVAILABLE`.
    """

    address: str
    state: str
    versions: tuple[tuple[int, str], ...] = ()


class ServerStates:
    """Keeps the latest states; all callers share one call to each server."""

    def __init__(self, client: AsyncServingClient, model: str) -> None:
        self._client = client
        self._target = Target(model)
        self._requested_at = 0.0
        self._request: asyncio.Task[list[ServerState]] | None = None

    async def load(self) -> list[ServerState]:
        """Return the states, which are at most `MAX_AGE_SECONDS` old."""
        now = deadlines.now()
        is_old = now - self._requested_at >= MAX_AGE_SECONDS
        if self._request is None or (self._request.done() and is_old):
            self._requested_at = now
            self._request = asyncio.get_running_loop().create_task(self._load_all())
        # A caller that disconnects must not cancel the call of the others.
        return await asyncio.shield(self._request)

    async def _load_all(self) -> list[ServerState]:
        return await asyncio.gather(*map(self._load_one, self._client.pool.servers))

    async def _load_one(self, server: Server) -> ServerState:
        if server.is_ejected:  # the pool probes it already
            return ServerState(server.address, LEFT_OUT)
        try:
            versions = await self._client.status(
                self._target, timeout=TIMEOUT_SECONDS, server=server
            )
        except NotFoundError:
            return ServerState(server.address, ANSWERS)
        except ServerError:
            return ServerState(server.address, UNREACHABLE)
        name = ModelVersionStatus.State.Name
        return ServerState(
            server.address, ANSWERS, tuple((v.version, name(v.state)) for v in versions)
        )
