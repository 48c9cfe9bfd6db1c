"""Label moves and a rollback by the controller, under load, for `benchmarks.rollout`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from benchmarks.rollout_site import HEALTHY, PATH, STABLE, Outcome, Site, send
from rollout import actions
from rollout.controller import Controller
from rollout.state import Rollout
from rollout.store import Store
from rollout.versions import versions
from tests.support import canaries

SLOW = 6
SLOW_SECONDS = 0.05
TICK_SECONDS = 1.0  # as `watch` does
# Servers read the model config file every second.
MOVE_SECONDS = 1.2
STEPS = (50.0,)
VERDICT_SECONDS = 60

T = TypeVar("T")


@dataclass(frozen=True)
class Moves:
    """Requests during label moves, and how many of them failed."""

    requests: int
    failed: int


@dataclass(frozen=True)
class Rollback:
    """The rollback of a slow version.

    Attributes:
        reason: why the version was rolled back.
        last_answer: seconds from the verdict to the last answer by the version.
        label_end: seconds from the verdict until no server has the label `canary`.
        failed: requests that failed during the load.
        requests: all requests of the load.
    """

    reason: str
    last_answer: float
    label_end: float
    failed: int
    requests: int


class ControlledSite:
    """Model servers that follow a controller's model config file, and a gateway for them."""

    def __init__(self, site: Site, servers: int) -> None:
        """Publish a version, let the controller write the first files, and start the servers."""
        canaries.publish(site.base_path, STABLE)
        self._site = site
        models = site.base_path.parent
        self._urls: list[str] = []
        self._gateways: list[str] = []
        store = Store(site.rollouts)
        self.controller = Controller(store, models, "m", self._urls, self._gateways)
        self.controller.change(lambda state, now: state)
        self.addresses: list[str] = []
        for _ in range(servers):
            _, address, url = site.start_model_server(store.config)
            self.addresses.append(address)
            self._urls.append(url)

    def measure_moves(self, count: int) -> Moves:
        """Move the stable version and its label back and forth while callers use both."""
        canaries.publish(self._site.base_path, HEALTHY)

        async def move_often(url: str) -> Moves:
            finished = False
            tasks = [
                asyncio.create_task(send(f"{url}{path}", 10**9, 4, until=lambda: finished))
                for path in (PATH, "/v1/models/m/labels/stable:predict")
            ]
            for move in range(count):
                await asyncio.to_thread(self._move, (HEALTHY, STABLE)[move % 2])
                await asyncio.sleep(MOVE_SECONDS)
            finished = True
            outcomes = [await task for task in tasks]
            return Moves(sum(len(o.seconds) for o in outcomes), sum(o.failed for o in outcomes))

        return self._run_with_gateway(move_often)

    def measure_rollback(self) -> Rollback:
        """Roll out a slow version; measure how long it still answers callers after the verdict."""
        canaries.publish(self._site.base_path, SLOW, seconds=SLOW_SECONDS)

        async def roll_out(url: str) -> Rollback:
            finished = False
            task = asyncio.create_task(send(f"{url}{PATH}", 10**9, 16, until=lambda: finished))
            await asyncio.to_thread(self._start, SLOW)
            state, verdict = await asyncio.to_thread(self._wait_for_rollback)
            label_end = await asyncio.to_thread(self._wait_for_no_canary_label)
            await asyncio.sleep(2)
            finished = True
            outcome: Outcome = await task
            last = outcome.last.get(SLOW, verdict)
            return Rollback(
                state.reason,
                max(0.0, last - verdict),
                label_end,
                outcome.failed,
                len(outcome.seconds),
            )

        return self._run_with_gateway(roll_out)

    def _run_with_gateway(self, function: Callable[[str], Coroutine[Any, Any, T]]) -> T:
        with self._site.gateway(*self.addresses) as url:
            self._gateways[:] = [url]
            return asyncio.run(function(url))

    def _start(self, version: int) -> Rollout:
        published = versions(self._site.base_path)
        settings = {"steps": STEPS, "bake": 0.0, "tolerance": 5.0, "hold": 3600.0}
        state = self.controller.change(
            lambda state, now: actions.start(state, version, published, now, "start", **settings)
        )
        while state.phase == "loading":
            state = self.controller.tick().state
            time.sleep(0.1 if state.phase == "loading" else 0)
        if state.phase != "canary":
            raise RuntimeError(state.reason)
        return state

    def _move(self, version: int) -> None:
        """Make a version stable by starting its rollout and promoting it."""
        self._start(version)
        servers = self.controller.servers()
        self.controller.change(lambda state, now: actions.promote(state, servers, now))

    def _wait_for_rollback(self) -> tuple[Rollout, float]:
        """Tick until the version is rolled back, and return the state and the time."""
        deadline = time.monotonic() + VERDICT_SECONDS
        while time.monotonic() < deadline:
            decision = self.controller.tick()
            if decision.state.phase == "rolled_back":
                return decision.state, time.perf_counter()
            time.sleep(TICK_SECONDS)
        raise RuntimeError(f"no verdict within {VERDICT_SECONDS} s: {decision}")

    def _wait_for_no_canary_label(self) -> float:
        """Wait until no server has the label `canary`, and return the seconds it took."""
        started = time.perf_counter()
        for address in self.addresses:
            with grpc.insecure_channel(address) as channel:
                stub = PredictionServiceStub(channel)
                while _has_label(stub, "canary"):
                    time.sleep(0.02)
        return time.perf_counter() - started


def _has_label(stub: Any, label: str) -> bool:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "m", label
    x = request.inputs["x"]
    x.dtype = 1
    x.tensor_shape.dim.add(size=1)
    x.tensor_content = np.zeros(1, np.float32).tobytes()
    try:
        stub.Predict(request, timeout=5)
    except grpc.RpcError:
        return False
    return True
