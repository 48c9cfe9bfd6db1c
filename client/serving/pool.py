"""The pool of model servers behind one client, with one channel each.

A single channel with round robin would send calls to a server that does not answer, and could not
tell which server has which version.
"""

from __future__ import annotations

import asyncio
import math
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from client.serving import protos
from client.serving.channel import Tls, aio_channel, has_scheme, split_addresses

# Interval between lookups of a name for addresses that were added or removed.
RESOLVE_SECONDS = 5.0
# Interval and timeout of probes to an ejected server.
PROBE_SECONDS = 0.5
PROBE_TIMEOUT = 1.0
# A call is late after LATE_SECONDS or a multiple of the slowest recent call, whichever is longer.
LATE_SECONDS = 1.0
LATE_FACTOR = 4.0
SLOWEST_DECAY = 0.99
# A server's speed is the median of its last calls, so a few slow calls, such as the first, do not
# count. Differences of a few milliseconds are ignored, and the median decays with time, so that a
# slow server is tried again.
RECENT_CALLS = 9
NOISE_SECONDS = 0.005
HALF_LIFE_SECONDS = 1.0
# Time for calls to a server that has left, including their time in the queue.
DRAIN_SECONDS = 30.0
_NO_ANSWER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


class Server:
    """A model server at one address.

    Attributes:
        address: for messages.
        rpcs: its methods by name.
        calls: number of calls in flight.
        is_ejected: whether it gets no calls because it stopped answering.
        closed: whether its channel is closed.
    """

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.rpcs = stubs(channel)
        self.calls = 0
        self.is_ejected = False
        self.closed = False
        self._channel = channel
        self._recent: deque[float] = deque([0.0] * RECENT_CALLS, RECENT_CALLS)
        self._measured_at = 0.0

    def seconds(self, now: float) -> float:
        """Return the median duration of its recent predictions, decayed by their age."""
        return statistics.median(self._recent) * math.pow(
            0.5, (now - self._measured_at) / HALF_LIFE_SECONDS
        )

    def observe(self, seconds: float, now: float) -> None:
        """Record the duration of a prediction that ended now."""
        self._recent.append(seconds)
        self._measured_at = now

    async def answers(self) -> bool:
        """Return whether the server answers at all, even with an error."""
        try:
            request = protos.GetModelStatusRequest(model_spec=protos.ModelSpec(name="probe"))
            await self.rpcs["GetModelStatus"](request, timeout=PROBE_TIMEOUT)
        except grpc.RpcError as error:
            return error.code() not in _NO_ANSWER
        return True

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self.closed = True
        await self._channel.close()


class ServerPool:
    """Picks a server for each call.

    Servers take turns. One with calls in flight, or one that takes a multiple of the fastest's
    time, gets fewer calls: its cost is the number of its calls, including this one, times its
    slowness relative to the fastest server, rounded so that equal servers stay equal.

    Attributes:
        servers: the current servers.
        on_leave: called with each server that leaves.
    """

    def __init__(self, address: str, tls: Tls | None) -> None:
        """Create channels, which connect on first use.

        Args:
            address: `host:port`, several `ip:port` separated by commas, or any gRPC target.
            tls: encryption of the connections; None for plain text.
        """
        self.address = address
        self._tls = tls
        addresses = split_addresses(address)
        self.servers = [Server(each, aio_channel(each, tls)) for each in addresses]
        self.on_leave: Callable[[Server], None] = lambda server: None
        self._resolves = len(addresses) == 1 and not has_scheme(address)
        self._slowest = 0.0
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def pick(self, avoid: Collection[Server] = ()) -> Server:
        """Return the cheapest answering server; equal ones take turns.

        Args:
            avoid: servers to pick only if there is no other.
        """
        servers = self.servers
        if len(servers) == 1:
            return servers[0]
        self._turn += 1
        candidates = [s for s in servers if s not in avoid] if avoid else servers
        answering = [s for s in candidates if not s.is_ejected] or candidates or servers
        return self._cheapest(answering)

    def slots(self) -> int:
        """Return the number of answering servers, at least one."""
        if len(self.servers) == 1:
            return 1
        return max(1, sum(not server.is_ejected for server in self.servers))

    def pick_other(self, server: Server, avoid: Collection[Server] = ()) -> Server | None:
        """Return another answering server, or None. The turn does not advance."""
        others = [
            s for s in self.servers if s is not server and not s.is_ejected and s not in avoid
        ]
        return self._cheapest(others) if others else None

    def _cheapest(self, servers: list[Server]) -> Server:
        turn = self._turn % len(servers)
        now = time.monotonic()
        seconds = {server: NOISE_SECONDS + server.seconds(now) for server in servers}
        fastest = min(seconds.values())

        def cost(server: Server) -> int:
            return (server.calls + 1) * round(seconds[server] / fastest)

        return min(servers[turn:] + servers[:turn], key=cost)

    @property
    def late_after(self) -> float:
        """Seconds after which a call is late."""
        return max(LATE_SECONDS, LATE_FACTOR * self._slowest)

    def observe(self, server: Server, rpc: str, code: grpc.StatusCode, seconds: float) -> None:
        """Record a call's duration, and whether its server answered."""
        if code is grpc.StatusCode.OK:
            self._slowest = max(seconds, self._slowest * SLOWEST_DECAY)
            if rpc == "Predict":
                server.observe(seconds, time.monotonic())
        elif code is grpc.StatusCode.UNAVAILABLE or (
            code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds >= LATE_SECONDS
        ):
            self.eject(server)

    def eject(self, server: Server) -> None:
        """Send nothing to a server until it answers a probe."""
        if server.is_ejected or len(self.servers) == 1:
            return
        server.is_ejected = True
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
        server.is_ejected = False

    async def _resolve(self) -> None:
        """Keep a channel for each address once a name has several addresses, or another one."""
        host, _, port = self.address.rpartition(":")
        loop = asyncio.get_running_loop()
        initial: list[str] | None = None
        while True:
            with suppress(OSError):
                infos = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
                addresses = sorted({_join_host_port(info[4][0], port) for info in infos})
                initial = addresses if initial is None else initial
                if len({address.startswith("[") for address in addresses}) > 1:
                    # Perhaps one server at an IPv4 and an IPv6 address; gRPC chooses.
                    self._update_servers([self.address])
                elif len(addresses) > 1 or addresses != initial:
                    initial = []
                    self._update_servers(addresses)
            await asyncio.sleep(RESOLVE_SECONDS)

    def _update_servers(self, addresses: list[str]) -> None:
        """Add servers at new addresses, and drain those at other addresses."""
        current = {server.address: server for server in self.servers}
        self.servers = [
            current.get(each) or Server(each, aio_channel(each, self._tls, authority=self.address))
            for each in addresses
        ]
        for address, server in current.items():
            if address not in addresses:
                self._start(_drain(server))
                self.on_leave(server)


async def _drain(server: Server) -> None:
    """Close a server's channel after a delay, since queued requests may have picked it."""
    try:
        await asyncio.sleep(DRAIN_SECONDS)
    finally:
        await server.close()


def stubs(channel: grpc.Channel | grpc.aio.Channel) -> Mapping[str, Callable[..., Any]]:
    """Return the methods of a model server by name."""
    prediction = protos.PredictionServiceStub(channel)
    return {
        "Predict": prediction.Predict,
        "Classify": prediction.Classify,
        "Regress": prediction.Regress,
        "GetModelMetadata": prediction.GetModelMetadata,
        "GetModelStatus": protos.ModelServiceStub(channel).GetModelStatus,
    }


def _join_host_port(host: Any, port: str) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
