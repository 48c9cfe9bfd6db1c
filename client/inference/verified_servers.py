"""The servers allowed to answer for a version: those that compute what training computed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

from client.errors import ClientError, NotFoundError, ServerError, UnavailableError
from client.inference.golden import RECHECK_SECONDS, WRONG, GoldenObserver, GoldenRows
from client.serving.async_client import AsyncServingClient
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema_cache import SchemaCache


class VerifiedServers:
    """Loads each version's schema from each server, and selects servers that pass its golden rows.

    Attributes:
        schemas: the versions' schemas.
    """

    def __init__(self, client: AsyncServingClient, observe: GoldenObserver) -> None:
        """Start with no version loaded.

        Args:
            client: the client of the servers.
            observe: called with the result of each version's golden rows on a server.
        """
        self._pool = client.pool
        self._timeout = client.timeout
        self._golden = GoldenRows(client, observe)
        self._checks: set[asyncio.Task[None]] = set()
        self.schemas = SchemaCache(client, self._golden.check)

    def result_at(self, address: str, model: str, version: int) -> str | None:
        """Return "ok", "wrong", or "none" without golden rows; None if not yet known."""
        servers = [server for server in self._pool.servers if server.address == address]
        return self._golden.result(servers[0], model, version) if servers else None

    async def learn(self, target: Target, deadline: Deadline) -> None:
        """Load a target's schema from every answering server, and check its golden rows there."""

        async def learn_one(server: Server) -> None:
            with suppress(ClientError):
                schema = await self.schemas.load(target, server, deadline)
                # A slow check continues after the deadline, for later callers.
                check = asyncio.create_task(self._golden.check(schema, server))
                self._checks.add(check)
                check.add_done_callback(self._checks.discard)
                await asyncio.wait({check}, timeout=deadline.remaining())

        servers = [server for server in self._pool.servers if not server.is_ejected]
        await asyncio.gather(*map(learn_one, servers))

    async def recheck(self) -> None:
        """Recheck versions with a wrong result until cancelled, and forget those that are gone.

        A version that was rolled back gets no requests, so nothing else would check it again.
        """
        while True:
            await asyncio.sleep(RECHECK_SECONDS[WRONG])
            for server, model, version in self._golden.wrong_results():
                if server.is_ejected:
                    continue
                target = Target(model, version)
                try:
                    await self.schemas.fetch(target, server, Deadline(self._timeout))
                except NotFoundError:
                    self._golden.forget(server, model, version)
                except ServerError:
                    pass  # retried in the next round

    async def verify(self, target: Target, deadline: Deadline) -> None:
        """Check that a server passes the golden rows of a target's version, if it has any.

        Raises:
            UnavailableError: no server passes, or none has described the version in time.
        """
        await self.learn(target, deadline)
        results = {server: self._golden_result(target, server) for server in self._pool.servers}
        wrong = [server for server, result in results.items() if result == WRONG]
        if wrong and set(results.values()) <= {None, WRONG}:
            schema = self.schemas.get(target, wrong[0])
            version = target.version if schema is None else schema.version
            raise UnavailableError(
                f"model {target.model}: version {version} on {wrong[0].address} does not compute "
                "what training computed: it answers its golden rows wrongly; serve another version"
            )
        if set(results.values()) == {None} and not deadline.remaining():
            raise UnavailableError(f"model {target.model} has not described itself yet")

    async def to_avoid(
        self, target: Target, deadline: Deadline, *, on_trial: bool = False
    ) -> Collection[Server]:
        """Return the servers that must not answer for a target.

        Args:
            target: the model and the version.
            deadline: for learning a version on trial.
            on_trial: whether to avoid servers not known to be right; if not, only those known to be
                wrong are avoided, while another one answers.

        Raises:
            UnavailableError: a version is on trial, and no server may answer for it.
        """
        if not on_trial:
            if not self._golden.any_wrong:
                return ()
            wrong = self._servers_with(target, WRONG)
            others = [s for s in self._pool.servers if s not in wrong and not s.is_ejected]
            return wrong if others else ()
        avoid = self._servers_with(target, None, WRONG)
        if len(avoid) == len(self._pool.servers):
            await self.learn(target, deadline)
            avoid = self._servers_with(target, None, WRONG)
        if len(avoid) == len(self._pool.servers):
            raise UnavailableError(
                f"model {target.model}: no server answers for version {target.version}, or it does "
                "not compute what training computed"
            )
        return avoid

    def _servers_with(self, target: Target, *results: str | None) -> list[Server]:
        return [s for s in self._pool.servers if self._golden_result(target, s) in results]

    def _golden_result(self, target: Target, server: Server) -> str | None:
        schema = self.schemas.get(target, server)
        return None if schema is None else self._golden.result(server, schema.model, schema.version)
