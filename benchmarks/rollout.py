"""Rollouts through the gateway: their effects on callers, and the cost of arms and shadows."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import requests

from benchmarks import report
from benchmarks.goals import Goal
from benchmarks.load import Request, load
from benchmarks.processes import Server
from benchmarks.rollout_controller import ControlledSite, Moves, Rollback
from benchmarks.rollout_site import (
    BODY,
    HANGS,
    HEALTHY,
    NANS,
    PATH,
    RAISES,
    STABLE,
    Outcome,
    Site,
    send,
)
from client.arms.rollout_file import parse
from client.arms.split import Split
from tests.support import canaries
from tests.support.rollouts import rollout_document

FAULTS = {"raises an error": RAISES, "answers NaN": NANS, "hangs": HANGS, "is killed": HEALTHY}
PERCENT = 10.0
SERVERS = 3
WARM_UP = 200
CONNECTIONS = 64
KEYS = 100_000
# A new generation resets the cut-out, so that the canary keeps getting requests.
RESET_SECONDS = 0.5
# A load (requests per second) that leaves cores idle.
LIGHT_CONNECTIONS, LIGHT_RATE = 8, 200


@dataclass(frozen=True)
class Plan:
    """The amount of work.

    Attributes:
        requests: requests to broken canaries, over all faults.
        moves: moves of the label `stable`.
        rounds: repetitions of each load.
        seconds: duration of a load.
    """

    requests: int
    moves: int
    rounds: int
    seconds: int


FULL = Plan(requests=100_000, moves=100, rounds=5, seconds=4)
QUICK = Plan(requests=4_000, moves=4, rounds=3, seconds=2)


@dataclass(frozen=True)
class ShadowCost:
    """The cost of a shadow.

    Attributes:
        p99_without, p99_with: 99th percentiles in milliseconds, without and with a shadow.
        copied_light, copied_busy: fractions of rows copied, with cores free and under full load.
    """

    p99_without: float
    p99_with: float
    copied_light: float
    copied_busy: float


def load_broken_canaries(
    site: Site, addresses: list[str], server: Server, plan: Plan
) -> tuple[list[list[str]], int, int]:
    """Load a gateway while its canary has each fault; the last fault kills `server`.

    Returns:
        A row of the table for each fault, the number of failed requests, and the number of
        mismatched responses.
    """
    count = plan.requests // len(FAULTS)
    rows: list[list[str]] = []
    failed, mismatched = 0, 0

    async def run(url: str, fault: str, version: int) -> Outcome:
        task = asyncio.create_task(send(f"{url}{PATH}", count, CONNECTIONS))
        is_killed = False
        while not task.done():
            site.write_state(canary=version, percent=PERCENT)
            await asyncio.wait({task}, timeout=RESET_SECONDS)
            if fault == "is killed" and not is_killed:
                is_killed = True
                for process in server.processes():
                    process.kill()
        return task.result()

    site.write_state()
    with site.gateway(*addresses) as url:  # the first calls to a new server take longer
        asyncio.run(send(f"{url}{PATH}", WARM_UP, LIGHT_CONNECTIONS))
    for fault, version in FAULTS.items():
        site.write_state(canary=version, percent=PERCENT)
        with site.gateway(*addresses) as url:
            outcome = asyncio.run(run(url, fault, version))
        arms = ", ".join(f"{name} {count:,}" for name, count in sorted(outcome.arms.items()))
        p99 = 1000 * float(np.percentile(outcome.seconds, 99))
        counts = f"{count:,}", str(outcome.failed), str(outcome.mismatched)
        rows.append([fault, *counts, arms, f"{p99:.0f} ms"])
        failed, mismatched = failed + outcome.failed, mismatched + outcome.mismatched
    return rows, failed, mismatched


def measure_routing_cost(site: Site, address: str, plan: Plan) -> tuple[list[float], list[float]]:
    """Return each round's requests per second without a rollout, and with a canary."""
    body = site.folder / "body"
    body.write_bytes(BODY)
    site.write_state(canary=HEALTHY, percent=PERCENT)
    plain_rates: list[float] = []
    canary_rates: list[float] = []
    with site.gateway(address, rollout=False) as plain_url, site.gateway(address) as canary_url:
        for index in range(plan.rounds + 1):
            turns = [(plain_url, plain_rates), (canary_url, canary_rates)]
            for url, rates in turns if index % 2 else reversed(turns):
                request = Request(f"{url}{PATH}", "application/json", body)
                result = load(request, CONNECTIONS, plan.seconds if index else 1)
                if result.errors:
                    sys.exit(f"the load failed: {result}")
                if index:  # after a warm-up
                    rates.append(result.rate)
    return plain_rates, canary_rates


def measure_shadow_cost(site: Site, address: str, plan: Plan) -> ShadowCost:
    """Measure the 99th percentiles without and with a shadow, in turn, and the copied rows."""
    latencies: dict[int | None, list[float]] = {None: [], HEALTHY: []}
    count = LIGHT_RATE * plan.seconds
    site.write_state()
    with site.gateway(address) as url:

        def measure_latencies(shadow: int | None) -> list[float]:
            site.write_state(shadow=shadow)
            time.sleep(1)
            outcome = asyncio.run(send(f"{url}{PATH}", count, LIGHT_CONNECTIONS, LIGHT_RATE))
            return outcome.seconds

        measure_latencies(HEALTHY)  # warm-up
        for _ in range(plan.rounds):
            for shadow, seconds in latencies.items():
                seconds += measure_latencies(shadow)
        before = _count_copied_rows(url)
        site.write_state(shadow=HEALTHY)
        time.sleep(1)
        body = site.folder / "body"
        body.write_bytes(BODY)
        result = load(Request(f"{url}{PATH}", "application/json", body), CONNECTIONS, 2)
        copied = _count_copied_rows(url) - before
    without, with_shadow = (1000 * float(np.percentile(s, 99)) for s in latencies.values())
    light = before / (count * (plan.rounds + 1))
    return ShadowCost(without, with_shadow, light, copied / result.requests)


def _count_copied_rows(url: str) -> float:
    """Return the number of rows copied to the shadow."""
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    name = "client_shadow_rows_total{"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def measure_sticky_shares() -> tuple[float, int]:
    """Return the largest error of a share in percentage points, and the number of lost keys.

    A key is lost if it no longer gets the canary after the share has increased.
    """
    keys = [f"caller-{number}" for number in range(KEYS)]
    largest_error, lost, previous = 0.0, 0, set[str]()
    for percent in (1, 5, 25, 50):
        document = json.dumps(rollout_document("m", canary=2, percent=percent)).encode()
        split = Split(parse(document, "m"))
        current = {key for key in keys if split.by_key(key).name == "canary"}
        largest_error = max(largest_error, abs(100 * len(current) / KEYS - percent))
        lost += len(previous - current)
        previous = current
    return largest_error, lost


def goals(
    plan: Plan,
    broken: tuple[int, int],
    shares: tuple[float, int],
    routing: tuple[list[float], list[float]],
    shadow: ShadowCost,
    moves: Moves,
    rollback: Rollback,
) -> list[Goal]:
    """Return every goal with its measurement."""
    throughput = statistics.median(b / a for a, b in zip(*routing, strict=True))
    increase = 100 * (shadow.p99_with / shadow.p99_without - 1)
    light = (
        f"{shadow.p99_without:.2f} ms, {LIGHT_RATE} requests per second, "
        f"{shadow.copied_light:.0%} copied"
    )

    def at_most(text: str, limit: float, measured: float, unit: str = "") -> Goal:
        return Goal(text, limit, measured, False, unit)

    return [
        at_most(f"failed of {plan.requests:,} requests with a broken canary", 0, broken[0]),
        at_most("responses whose values, version and arm do not match", 0, broken[1]),
        at_most(
            f"failed of {moves.requests:,} requests during {plan.moves} label moves on "
            "three servers",
            0,
            moves.failed,
        ),
        at_most("from the verdict to that version's last answer", 2, rollback.last_answer, " s"),
        at_most(
            "from the verdict to the end of its label on all servers", 2, rollback.label_end, " s"
        ),
        at_most(
            f"failed of {rollback.requests:,} requests during that rollback", 0, rollback.failed
        ),
        at_most(f"error of the canary's share among {KEYS:,} keys", 0.3, shares[0], " points"),
        at_most("keys that lost the canary when its share increased", 0, shares[1]),
        at_most(
            f"throughput lost by routing, {CONNECTIONS} connections, canary of {PERCENT:g}%",
            2,
            100 * (1 - throughput),
            "%",
        ),
        at_most(f"increase of p99 by a shadow, cores free ({light})", 5, increase, "%"),
        at_most(
            f"rows copied to a shadow under full load, {CONNECTIONS} connections",
            100 * shadow.copied_light,
            100 * shadow.copied_busy,
            "%",
        ),
    ]


@click.command()
@click.option("--quick", is_flag=True, help="Fewer requests, moves and rounds.")
@report.write_option
def main(quick: bool, folder: Path | None) -> None:
    """Measure the effects of rollouts on callers."""
    if folder and quick:
        raise click.UsageError("--write: expected a full run, without --quick")
    plan = QUICK if quick else FULL
    shares = measure_sticky_shares()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        controlled = ControlledSite(Site(Path(temporary) / "controlled", stack), SERVERS)
        moves = controlled.measure_moves(plan.moves)
        rollback = controlled.measure_rollback()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        site = Site(Path(temporary) / "site", stack)
        canaries.publish(site.base_path, STABLE)
        canaries.publish(site.base_path, HEALTHY)
        canaries.publish(site.base_path, RAISES, fault=canaries.RAISE)
        canaries.publish(site.base_path, NANS, fault=canaries.NAN)
        canaries.publish(site.base_path, HANGS, seconds=1.0)
        config = site.write_config()
        server, address, _ = site.start_model_server(config)
        routing = measure_routing_cost(site, address, plan)
        shadow = measure_shadow_cost(site, address, plan)
        others = [site.start_model_server(config)[1] for _ in range(SERVERS - 1)]
        rows, *broken = load_broken_canaries(site, [address, *others], server, plan)
    results = goals(plan, (broken[0], broken[1]), shares, routing, shadow, moves, rollback)
    report.write_sections(
        "rollout",
        "Effects of rollouts on callers. Model servers, gateway and load share one machine; "
        f"only counts and ratios are meaningful. A canary gets {PERCENT:g}% of the requests, one "
        f"row each; its cut-out is reset every {RESET_SECONDS} s, so that it keeps failing. The "
        "controller moves the labels by promoting one version after the other.",
        [
            ("", ["goal", "limit", "measured", "met"], [goal.row() for goal in results]),
            (
                f"Broken canaries, {CONNECTIONS} connections, {SERVERS} servers:",
                ["the canary", "requests", "failed", "mismatched", "answered by", "p99"],
                rows,
            ),
            ("The rollback:", ["verdict"], [[rollback.reason]]),
        ],
        ["grpcio", "uvicorn", "numpy"],
        folder,
    )


if __name__ == "__main__":
    main()
