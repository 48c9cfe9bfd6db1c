"""Schemas of servers with different versions, and which servers are avoided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from client import AsyncServingClient
from client.inference.golden import WRONG
from client.inference.verified_servers import VerifiedServers
from client.serving import schema_cache
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema import Schema
from client.serving.schema_cache import SchemaCache, _Entry
from tests.client import schemas

MODEL = Target("m")


def run_with_client(work: Callable[[AsyncServingClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncServingClient("127.0.0.1:1,127.0.0.1:2") as client:
            await work(client)

    asyncio.run(run())


async def learn_nothing(schema: Schema, server: Server) -> None:
    """Do nothing."""


def test_version_known_from_one_server_is_checked_on_another() -> None:
    async def work(client: AsyncServingClient) -> None:
        learned: list[tuple[Schema, Server]] = []

        async def learn(schema: Schema, server: Server) -> None:
            learned.append((schema, server))

        cache = SchemaCache(client, learn)
        _, second = client.pool.servers
        old, new = schemas.numeric(), schemas.numeric()
        cache._versions["m", 2] = new
        cache._entries[MODEL, second] = _Entry(old, time.monotonic())
        for _ in range(2):
            assert await cache.load_version(MODEL, 2, second, Deadline(1)) is new
        assert learned == [(new, second)]

    run_with_client(work)


def test_server_with_wrong_golden_rows_is_used_if_no_other_is_left() -> None:
    async def work(client: AsyncServingClient) -> None:
        servers = VerifiedServers(client, lambda *_: None)
        first, second = client.pool.servers
        schema = schemas.numeric()
        servers.schemas._entries[MODEL, second] = _Entry(schema, time.monotonic())
        servers._golden._results[second, schema.model, schema.version] = WRONG
        servers._golden.any_wrong = True
        assert list(await servers.to_avoid(MODEL, Deadline(1))) == [second]
        first.is_ejected = True
        assert list(await servers.to_avoid(MODEL, Deadline(1))) == []

    run_with_client(work)


def test_all_targets_and_servers_of_a_version_share_its_schema() -> None:
    async def work(client: AsyncServingClient) -> None:
        cache = SchemaCache(client, learn_nothing)
        first, second = client.pool.servers
        known = cache._store((MODEL, first), schemas.numeric())
        assert cache._store((Target("m", 1), first), schemas.numeric()) is known
        assert cache._store((MODEL, second), schemas.numeric()) is known

    run_with_client(work)


def test_models_without_requests_are_not_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_cache, "REFRESH_SECONDS", 0.01)

    async def work(client: AsyncServingClient) -> None:
        cache = SchemaCache(client, learn_nothing)
        polled: list[str] = []

        async def schema(target: Target, *, server: Server) -> Schema:
            polled.append(target.model)
            return schemas.numeric()

        monkeypatch.setattr(client, "schema", schema)
        first, _ = client.pool.servers
        idle = Target("idle")
        for target in (MODEL, idle):
            await cache.load(target, first, Deadline(20))
        polling = asyncio.create_task(cache.keep_fresh())
        while polled.count("m") < 9:
            cache.get(MODEL, first)
            await asyncio.sleep(0.01)
        polling.cancel()
        assert polled.count("idle") == 2

    run_with_client(work)


def test_learning_does_not_wait_for_golden_rows_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(client: AsyncServingClient) -> None:
        servers = VerifiedServers(client, lambda *_: None)
        first, second = client.pool.servers
        first.is_ejected = True
        servers.schemas._entries[MODEL, second] = _Entry(schemas.numeric(), time.monotonic())
        release, checked = asyncio.Event(), asyncio.Event()

        async def check(schema: Schema, server: Server) -> None:
            await release.wait()
            checked.set()

        monkeypatch.setattr(servers._golden, "check", check)
        await asyncio.wait_for(servers.learn(MODEL, Deadline(0.01)), 20)
        release.set()
        await asyncio.wait_for(checked.wait(), 20)

    run_with_client(work)
