"""A cache of schemas by version, and of the version that each server answers with.

A version's schema never changes. The latest version does, and not on all servers at the same
moment; it is learned from replies, from requests that do not fit, and by polling.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from client.errors import ClientError, DeadlineExceededError, ServerError
from client.serving.client import AsyncServingClient
from client.serving.deadlines import Deadline
from client.serving.flows import Target
from client.serving.pool import Server
from client.serving.schema import Schema

# A request that does not fit the schema may fit a newer version, so the schema is reloaded, but at
# most this often, since the request may simply be wrong.
MIN_AGE_SECONDS = 1.0
REFRESH_SECONDS = 5.0
MAX_SCHEMAS = 256

_Key = tuple[Target, Server]


@dataclass
class _Known:
    """A target's schema, when it was last loaded, and whether it was used since."""

    schema: Schema
    loaded_at: float
    used: bool = True


class SchemaCache:
    """The schemas of the models behind one client.

    It is bound to one event loop.
    """

    def __init__(
        self, client: AsyncServingClient, learned: Callable[[Schema, Server], Awaitable[None]]
    ) -> None:
        """Start empty.

        Args:
            client: the client of the servers.
            learned: awaited with each schema and its server before requests use it.
        """
        self._client = client
        self._learned = learned
        self._known: dict[_Key, _Known] = {}
        # A version is the same on every server, and may be gone from one that has just answered.
        self._versions: dict[tuple[str, int], Schema] = {}
        self._asking: dict[_Key, asyncio.Task[Schema]] = {}

    def get(self, target: Target, server: Server) -> Schema | None:
        """Return a target's schema on a server, None if it is not cached."""
        known = self._known.get((target, server))
        if known is None:
            return None
        known.used = True
        return known.schema

    async def load(self, target: Target, server: Server, deadline: Deadline) -> Schema:
        """Return a target's schema on a server, loading it if it is not cached.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self.get(target, server) or await self.ask(target, server, deadline)

    def server_of(
        self, target: Target, schema: Schema, avoid: Collection[Server] = ()
    ) -> Server | None:
        """Return a server on which a target has this schema, None if there is none."""
        pool = self._client.pool
        others = [one for one in pool.servers if self.get(target, one) is not schema]
        server = pool.pick((*avoid, *others))
        return None if server.left_out or server in avoid or server in others else server

    def models(self) -> list[str]:
        """Return the names of the models whose latest version is cached."""
        return list(dict.fromkeys(t.model for t, _ in self._known if t == Target(t.model)))

    async def refresh(
        self, target: Target, server: Server, schema: Schema, deadline: Deadline, error: ClientError
    ) -> Schema | None:
        """Reload a target's schema; None if that does not explain an error."""
        if error.status not in (400, 404):
            return None
        known = self._known.get((target, server))
        if known is not None and known.schema is not schema:
            return known.schema
        if known is not None and time.monotonic() - known.loaded_at < MIN_AGE_SECONDS:
            return None
        try:
            fresh = await self.ask(target, server, deadline)
        except ServerError:
            return None  # the error at hand says more
        return fresh if fresh is not schema else None

    async def answered_by(
        self, target: Target, version: int, server: Server, deadline: Deadline
    ) -> Schema:
        """Return the schema of the version that a server has just answered with."""
        schema = self._versions.get((target.model, version))
        if schema is None:
            schema = await self.load(Target(target.model, version), server, deadline)
        known = self._known.get((target, server))
        if known is not None and known.schema is not schema:
            await self._learned(schema, server)
            known.schema = schema
        return schema

    async def ask(self, target: Target, server: Server, deadline: Deadline) -> Schema:
        """Load a target's schema from a server; concurrent callers share the request.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        key = (target, server)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask_once(key))
            # All waiters may have gone, and nobody else would retrieve an error.
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A waiter may time out without cancelling the request for the others.
        await asyncio.wait({asking}, timeout=deadline.left())
        if not asking.done():
            raise DeadlineExceededError("there was no answer in time")
        return asking.result()

    async def keep_fresh(self) -> None:
        """Poll for new versions of the models in use until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for (target, server), known in list(self._known.items()):
                if server not in self._client.pool.servers:
                    self._known.pop((target, server), None)
                elif target.version is None and known.used and not server.left_out:
                    known.used = False
                    with suppress(ServerError):
                        await self.ask(target, server, Deadline(self._client.timeout))

    async def _ask_once(self, key: _Key) -> Schema:
        target, server = key
        try:
            schema = await self._client.schema(target, server=server)
            await self._learned(schema, server)
        except ServerError as error:
            if error.status == 404:
                self._known.pop(key, None)
            raise
        finally:
            del self._asking[key]
        return self._remember(key, schema)

    def _remember(self, key: _Key, schema: Schema) -> Schema:
        """Store a schema, but keep an equal one that is stored already."""
        target, old = key[0], self._known.get(key)
        known = [self._known.get((target, server)) for server in self._client.pool.servers]
        # Callers may name the version or not, so it is looked up by its number as well.
        version = self._versions.get((schema.model, schema.version))
        for same in (version, *(one.schema for one in known if one is not None)):
            if same is not None and same.equals(schema):
                schema = same
                break
        if old is None:
            while len(self._known) >= MAX_SCHEMAS:
                del self._known[next(iter(self._known))]
        # Polling does not count as use.
        self._known[key] = _Known(schema, time.monotonic(), old is None or old.used)
        while len(self._versions) >= MAX_SCHEMAS:
            del self._versions[next(iter(self._versions))]
        self._versions[schema.model, schema.version] = schema
        return schema
