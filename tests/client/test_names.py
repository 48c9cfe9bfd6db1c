"""Names of model servers whose addresses come and go, as those of a headless Service do."""

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
# Within which a new address must get calls, and one that is gone none.
FOUND_SECONDS = 45.0


def serve(starter: Starter, folder: Path, port: int, number: int, *flags: str) -> Running:
    """Start a server at 127.0.0.NUMBER, whose answers show the number as their version."""
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
    """The addresses of every name, as this process resolves it."""
    found: list[str] = []
    resolve(monkeypatch, defaultdict(lambda: found))
    return found


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + FOUND_SECONDS
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def test_calls_follow_the_addresses_of_a_name_without_a_failure(
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
        # gRPC itself resolves localhost, until this process finds other addresses.
        async with AsyncServingClient(f"localhost:{port}") as client:
            answered: list[int] = []

            async def call() -> None:
                while True:
                    answered.append((await client.predict("m", X)).version)
                    await asyncio.sleep(0.005)

            async def are_called(numbers: Collection[int]) -> None:
                addresses[:] = [f"127.0.0.{number}" for number in numbers]

                def only_those() -> bool:
                    assert not any(caller.done() for caller in callers), callers
                    return set(answered[-50:]) == set(numbers)

                await until(only_those, f"calls go to {numbers}: {answered[-50:]}")

            callers = [asyncio.create_task(call()) for _ in range(4)]
            client.pool.start()
            await are_called([1])
            await are_called([1, 2, 3])
            addresses.clear()  # a name server that does not answer changes nothing
            await asyncio.sleep(0.5)
            assert len(client.pool.servers) == 3
            await are_called([2])
            first = psutil.Process(servers[1].process.pid)
            await until(lambda: not connections(first), "connections of those gone are closed")
            assert servers[1].stop() == 0
            await are_called([3])  # one address in place of another
            assert servers[2].stop() == 0
            for caller in callers:
                caller.cancel()
            ended = await asyncio.gather(*callers, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended

    asyncio.run(run())


def connections(process: psutil.Process) -> list[Any]:
    found = process.net_connections("tcp")
    return [one for one in found if one.status == psutil.CONN_ESTABLISHED]


def test_an_ipv4_and_an_ipv6_address_may_be_one_server(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "RESOLVE_SECONDS", 0.01)

    async def run() -> None:
        async with AsyncServingClient("models:8500") as client:
            client.pool.start()
            for found, servers in (
                (["10.0.0.1"], ["models:8500"]),
                (["10.0.0.1", "::1"], ["models:8500"]),
                (["::2", "::1"], ["[::1]:8500", "[::2]:8500"]),
                (["::2"], ["[::2]:8500"]),
                (["10.0.0.1", "::1"], ["models:8500"]),
            ):
                addresses[:] = found
                await asyncio.sleep(0.05)
                assert [server.address for server in client.pool.servers] == servers

    asyncio.run(run())


def test_grpc_finds_another_address_when_the_server_ends_the_connection(
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
            lambda: client.predict("m", X).version == 2, "the new address", FOUND_SECONDS
        )
        assert first.stop() == 0
        assert client.predict("m", X).version == 2
