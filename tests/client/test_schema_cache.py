"""Schemas of servers with different versions, and the servers that may answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from client import AsyncServingClient
from client.inference.golden import WRONG
from client.inference.verified_servers import VerifiedServers
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema import Schema
from client.serving.schema_cache import SchemaCache, _Known
from tests.client import schemas

MODEL = Target("m")


def with_client(work: Callable[[AsyncServingClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncServingClient("127.0.0.1:1,127.0.0.1:2") as client:
            await work(client)

    asyncio.run(run())


def test_a_server_that_answers_with_a_version_known_from_another_is_checked_too() -> None:
    async def work(client: AsyncServingClient) -> None:
        learned: list[tuple[Schema, Server]] = []

        async def learn(schema: Schema, server: Server) -> None:
            learned.append((schema, server))

        cache = SchemaCache(client, learn)
        _, second = client.pool.servers
        old, new = schemas.numeric(), schemas.numeric()
        cache._versions["m", 2] = new
        cache._known[MODEL, second] = _Known(old, time.monotonic())
        for _ in range(2):
            assert await cache.answered_by(MODEL, 2, second, Deadline(1)) is new
        assert learned == [(new, second)]

    with_client(work)


def test_a_server_with_wrong_golden_rows_answers_if_no_other_does() -> None:
    async def work(client: AsyncServingClient) -> None:
        servers = VerifiedServers(client, lambda *_: None)
        first, second = client.pool.servers
        schema = schemas.numeric()
        servers.schemas._known[MODEL, second] = _Known(schema, time.monotonic())
        servers._golden._results[second, schema.model, schema.version] = WRONG
        servers._golden.any_wrong = True
        assert list(await servers.avoided(MODEL, Deadline(1))) == [second]
        first.left_out = True
        assert list(await servers.avoided(MODEL, Deadline(1))) == []

    with_client(work)
