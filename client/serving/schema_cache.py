"""A cache of schemas by version, and of the version with which each server answers.

A version's schema never changes. The latest version does, and not on all servers at the same
moment; it is learned from responses, from requests that do not fit, and by polling.
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
class _Entry:
    """A target's schema, when it was last loaded, and whether it has been used since."""

    schema: Schema
    loaded_at: float
    used: bool = True


class SchemaCache:
    """The schemas of the models behind one client.

    It is bound to one event loop.
    """

    def __init__(
        self, client: AsyncServingClient, on_load: Callable[[Schema, Server], Awaitable[None]]
    ) -> None:
        """Create an empty cache.

        Args:
            client: the client of the servers.
            on_load: awaited with each schema and its server before requests use it.
        """
        self._client = client
        self._on_load = on_load
        self._entries: dict[_Key, _Entry] = {}
        # A version has the same schema on every server, and may be unloaded right after it answers.
        self._versions: dict[tuple[str, int], Schema] = {}
        self._requests: dict[_Key, asyncio.Task[Schema]] = {}

    def get(self, target: Target, server: Server) -> Schema | None:
        """Return a target's schema on a server; None if it is not cached."""
        entry = self._entries.get((target, server))
        if entry is None:
            return None
        entry.used = True
        return entry.schema

    async def load(self, target: Target, server: Server, deadline: Deadline) -> Schema:
        """Return a target's schema on a server, loading it if it is not cached.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self.get(target, server) or await self.fetch(target, server, deadline)

    def pick_server(
        self, target: Target, schema: Schema, avoid: Collection[Server] = ()
    ) -> Server | None:
        """Return a server on which a target has this schema; None if there is none."""
        pool = self._client.pool
        unsuitable = [*avoid, *(s for s in pool.servers if self.get(target, s) is not schema)]
        server = pool.pick(unsuitable)
        return None if server.is_ejected or server in unsuitable else server

    def models(self) -> list[str]:
        """Return the names of the models whose latest version is cached."""
        return list(dict.fromkeys(t.model for t, _ in self._entries if t == Target(t.model)))

    async def refresh(
        self, target: Target, server: Server, schema: Schema, deadline: Deadline, error: ClientError
    ) -> Schema | None:
        """Reload a target's schema after an error; return None if that does not help."""
        if error.status not in (400, 404):
            return None
        entry = self._entries.get((target, server))
        if entry is not None and entry.schema is not schema:
            return entry.schema
        if entry is not None and time.monotonic() - entry.loaded_at < MIN_AGE_SECONDS:
            return None
        try:
            reloaded = await self.fetch(target, server, deadline)
        except ServerError:
            return None  # the original error says more
        return reloaded if reloaded is not schema else None

    async def load_version(
        self, target: Target, version: int, server: Server, deadline: Deadline
    ) -> Schema:
        """Return the schema of the version a server answered with; cache it for the target."""
        schema = self._versions.get((target.model, version))
        if schema is None:
            schema = await self.load(Target(target.model, version), server, deadline)
        entry = self._entries.get((target, server))
        if entry is not None and entry.schema is not schema:
            await self._on_load(schema, server)
            entry.schema = schema
        return schema

    async def fetch(self, target: Target, server: Server, deadline: Deadline) -> Schema:
        """Load a target's schema from a server; concurrent callers share the request.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        key = (target, server)
        request = self._requests.get(key)
        if request is None:
            request = self._requests[key] = asyncio.create_task(self._fetch_once(key))
            # asyncio logs exceptions that nobody retrieves, and every caller may have timed out.
            request.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A waiter may time out without cancelling the request for the others.
        await asyncio.wait({request}, timeout=deadline.remaining())
        if not request.done():
            raise DeadlineExceededError("there was no answer in time")
        return request.result()

    async def keep_fresh(self) -> None:
        """Poll for new versions of the models in use until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for (target, server), entry in list(self._entries.items()):
                if server not in self._client.pool.servers:
                    self._entries.pop((target, server), None)
                elif target.version is None and entry.used and not server.is_ejected:
                    entry.used = False
                    with suppress(ServerError):
                        await self.fetch(target, server, Deadline(self._client.timeout))

    async def _fetch_once(self, key: _Key) -> Schema:
        target, server = key
        try:
            schema = await self._client.schema(target, server=server)
            await self._on_load(schema, server)
        except ServerError as error:
            if error.status == 404:
                self._entries.pop(key, None)
            raise
        finally:
            del self._requests[key]
        return self._store(key, schema)

    def _store(self, key: _Key, schema: Schema) -> Schema:
        """Store and return a schema, or an equal one that is stored already."""
        target, old = key[0], self._entries.get(key)
        entries = [self._entries.get((target, server)) for server in self._client.pool.servers]
        # Callers may name the version or not, so it is looked up by its number as well.
        version = self._versions.get((schema.model, schema.version))
        for stored in (version, *(entry.schema for entry in entries if entry is not None)):
            if stored is not None and stored.equals(schema):
                schema = stored
                break
        if old is None:
            while len(self._entries) >= MAX_SCHEMAS:
                del self._entries[next(iter(self._entries))]
        # Polling does not count as use.
        self._entries[key] = _Entry(schema, time.monotonic(), old is None or old.used)
        while len(self._versions) >= MAX_SCHEMAS:
            del self._versions[next(iter(self._versions))]
        self._versions[schema.model, schema.version] = schema
        return schema
