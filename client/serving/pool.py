"""The pool of model servers behind one client, with one channel each.

A single channel with round robin would send calls to a server that does not answer, and could not
tell which server has which version.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from client.serving import protos
from client.serving.channel import Tls, aio_channel, has_scheme, split_addresses

# How often a name is looked up for addresses that have come or gone.
RESOLVE_SECONDS = 5.0
# Interval and timeout of probes to a server that was left out.
PROBE_SECONDS = 0.5
PROBE_TIMEOUT = 1.0
# A call is late after LATE_SECONDS, or after a multiple of the slowest recent call.
LATE_SECONDS = 1.0
LATE_FACTOR = 4.0
SLOWEST_DECAY = 0.99
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Server:
    """A model server at one address.

    Attributes:
        address: for messages.
        rpcs: its methods by name.
        calls: number of calls in flight.
        left_out: whether it is skipped because it stopped answering.
    """

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.rpcs = stubs(channel)
        self.calls = 0
        self.left_out = False
        self._channel = channel

    async def answers(self) -> bool:
        """Whether the server answers anything at all."""
        try:
            request = protos.GetModelStatusRequest(model_spec=protos.ModelSpec(name="probe"))
            await self.rpcs["GetModelStatus"](request, timeout=PROBE_TIMEOUT)
        except grpc.RpcError as error:
            return error.code() not in _NO_ANSWER
        return True

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        await self._channel.close()


class ServerPool:
    """Picks a server for each call."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        """Create channels; connections are made when they are first needed.

        Args:
            address: `host:port`, several `ip:port` with commas, or any gRPC target.
            tls: how connections are encrypted; not at all if None.
        """
        self.address = address
        self._tls = tls
        addresses = split_addresses(address)
        self.servers = [Server(one, aio_channel(one, tls)) for one in addresses]
        self._resolves = len(addresses) == 1 and not has_scheme(address)
        self._slowest = 0.0
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def pick(self) -> Server:
        """Return the server with the fewest calls in flight of those that answer, in turns."""
        servers = self.servers
        if len(servers) == 1:
            return servers[0]
        self._turn += 1
        return self._least_busy([s for s in servers if not s.left_out] or servers)

    def slots(self) -> int:
        """Return the number of answering servers, at least one."""
        if len(self.servers) == 1:
            return 1
        return max(1, sum(not server.left_out for server in self.servers))

    def other(self, server: Server) -> Server | None:
        """Return another server that answers, None if there is none. It takes no turn."""
        others = [s for s in self.servers if s is not server and not s.left_out]
        return self._least_busy(others) if others else None

    def _least_busy(self, servers: list[Server]) -> Server:
        turn = self._turn % len(servers)
        return min(servers[turn:] + servers[:turn], key=lambda server: server.calls)

    @property
    def late_after(self) -> float:
        """Seconds after which a call is late."""
        return max(LATE_SECONDS, LATE_FACTOR * self._slowest)

    def observe(self, server: Server, code: grpc.StatusCode, seconds: float) -> None:
        """Record a call's duration, and whether its server answered."""
        if code is grpc.StatusCode.OK:
            self._slowest = max(seconds, self._slowest * SLOWEST_DECAY)
        elif code is grpc.StatusCode.UNAVAILABLE or (
            code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds >= LATE_SECONDS
        ):
            self.leave_out(server)

    def leave_out(self, server: Server) -> None:
        """Send nothing to a server until it answers a probe."""
        if server.left_out or len(self.servers) == 1:
            return
        server.left_out = True
        self._start(self._probe(server))

    def start(self) -> None:
        """Start resolving the name periodically."""
        if self._resolves:
            self._start(self._resolve())

    async def close(self) -> None:
        """Close all channels; calls in flight are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self.servers:
            await server.close()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, server: Server) -> None:
        while server in self.servers and not await server.answers():
            await asyncio.sleep(PROBE_SECONDS)
        server.left_out = False

    async def _resolve(self) -> None:
        """Keep one channel for each address of the name, if it has several."""
        named = self.servers[0]
        loop = asyncio.get_running_loop()
        host, _, port = self.address.rpartition(":")
        while True:
            with suppress(OSError):
                infos = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
                found = sorted({_joined(info[4][0], port) for info in infos})
                await self._follow(named, found)
            await asyncio.sleep(RESOLVE_SECONDS)

    async def _follow(self, named: Server, found: list[str]) -> None:
        kinds = {address.startswith("[") for address in found}
        if len(found) < 2 or len(kinds) > 1:
            # One server, perhaps at an IPv4 and an IPv6 address; gRPC chooses.
            found = []
        current = {server.address: server for server in self.servers if server is not named}
        if current.keys() == set(found):
            return
        authority = self.address
        self.servers = [
            current.get(one) or Server(one, aio_channel(one, self._tls, authority=authority))
            for one in found
        ] or [named]
        await asyncio.sleep(PROBE_TIMEOUT)  # let calls in flight end
        for address, server in current.items():
            if address not in found:
                await server.close()


def stubs(over: grpc.Channel | grpc.aio.Channel) -> Mapping[str, Callable[..., Any]]:
    """Return the methods of a model server by name."""
    prediction = protos.PredictionServiceStub(over)
    return {
        "Predict": prediction.Predict,
        "Classify": prediction.Classify,
        "Regress": prediction.Regress,
        "GetModelMetadata": prediction.GetModelMetadata,
        "GetModelStatus": protos.ModelServiceStub(over).GetModelStatus,
    }


def _joined(host: Any, port: str) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
