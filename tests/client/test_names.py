"""Host names of model servers whose addresses change, like those of a headless Service."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from client import AsyncServingClient, ServingClient
from client.serving import pool
from tests.conftest import Starter
from tests.support import processes
from tests.support.affine import publish
from tests.support.names import NameServer, resolve
from tests.support.processes import Running, free_port

X = {"x": np.ones(1, np.float32)}
# Calls must reach new addresses, and leave removed ones, within this time.
MAX_SWITCH_SECONDS = 45.0


def serve(starter: Starter, folder: Path, port: int, number: int, *flags: str) -> Running:
    """Start a server at 127.0.0.NUMBER whose model version is the number."""
    publish(folder / f"{number}/m", number)
    base = f"--model_base_path={folder / f'{number}/m'}"
    address = f"--bind_address=127.0.0.{number}"
    running = starter.model_server("--model_name=m", base, address, *flags, port=port)
    processes.wait_for(
        lambda: processes.is_serving(f"127.0.0.{number}:{port}"), "the model is loaded"
    )
    return running


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the addresses that every name resolves to; tests may change it."""
    resolved: list[str] = []
    resolve(monkeypatch, defaultdict(lambda: resolved))
    return resolved


async def wait_until(condition: Callable[[], object], description: str) -> None:
    end = time.monotonic() + MAX_SWITCH_SECONDS
    while not condition():
        assert time.monotonic() < end, description
        await asyncio.sleep(0.02)


def test_calls_follow_the_addresses_of_a_name_without_failures(
    tmp_path: Path,
    starter: Starter,
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pool.RESOLVE_SECONDS <= 5
    monkeypatch.setattr(pool, "RESOLVE_SECONDS", 0.1)
    monkeypatch.setattr(pool, "DRAIN_SECONDS", 1.0)
    port = free_port()
    servers = {number: serve(starter, tmp_path, port, number) for number in (1, 2, 3)}

    async def run() -> None:
        # gRPC resolves localhost itself until this process finds other addresses.
        async with AsyncServingClient(f"localhost:{port}") as client:
            versions: list[int] = []

            async def call() -> None:
                while True:
                    versions.append((await client.predict("m", X)).version)
                    await asyncio.sleep(0.005)

            async def switch_to(numbers: Collection[int]) -> None:
                addresses[:] = [f"127.0.0.{number}" for number in numbers]

                def is_switched() -> bool:
                    assert not any(caller.done() for caller in callers), callers
                    return set(versions[-50:]) == set(numbers)

                await wait_until(is_switched, f"calls go to {numbers}: {versions[-50:]}")

            callers = [asyncio.create_task(call()) for _ in range(4)]
            client.pool.start()
            await switch_to([1])
            await switch_to([1, 2, 3])
            addresses.clear()  # a name server that does not answer changes nothing
            await asyncio.sleep(0.5)
            assert len(client.pool.servers) == 3
            await switch_to([2])
            first = psutil.Process(servers[1].process.pid)
            await wait_until(
                lambda: not connections(first), "connections to removed addresses are closed"
            )
            assert servers[1].stop() == 0
            await switch_to([3])  # one address replaces another
            assert servers[2].stop() == 0
            for caller in callers:
                caller.cancel()
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results), results

    asyncio.run(run())


def connections(process: psutil.Process) -> list[Any]:
    tcp = process.net_connections("tcp")
    return [connection for connection in tcp if connection.status == psutil.CONN_ESTABLISHED]


def test_one_ipv4_and_one_ipv6_address_count_as_one_server(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "RESOLVE_SECONDS", 0.01)

    async def run() -> None:
        async with AsyncServingClient("models:8500") as client:
            client.pool.start()
            for resolved, servers in (
                (["10.0.0.1"], ["models:8500"]),
                (["10.0.0.1", "::1"], ["models:8500"]),
                (["::2", "::1"], ["[::1]:8500", "[::2]:8500"]),
                (["::2"], ["[::2]:8500"]),
                (["10.0.0.1", "::1"], ["models:8500"]),
            ):
                addresses[:] = resolved
                await asyncio.sleep(0.05)
                assert [server.address for server in client.pool.servers] == servers

    asyncio.run(run())


def test_grpc_finds_another_address_when_the_server_closes_the_connection(
    tmp_path: Path, starter: Starter
) -> None:
    """A connection's maximum age makes every gRPC client look up the name again."""
    port = free_port()
    age = "--grpc_channel_arguments=grpc.max_connection_age_ms=500"
    first = serve(starter, tmp_path, port, 1, age)
    serve(starter, tmp_path, port, 2, age)
    with (
        NameServer("127.0.0.1") as names,
        ServingClient(f"{names.target}/models.test:{port}") as client,
    ):
        assert client.predict("m", X).version == 1
        names.addresses = ("127.0.0.2",)
        processes.wait_for(
            lambda: client.predict("m", X).version == 2,
            "calls reach the new address",
            MAX_SWITCH_SECONDS,
        )
        assert first.stop() == 0
        assert client.predict("m", X).version == 2
