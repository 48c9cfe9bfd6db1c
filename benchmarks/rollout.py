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
from benchmarks.rollout_controller import Controlled, Moves, Rollback
from benchmarks.rollout_site import (
    BODY,
    GOOD,
    HANGS,
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

FAULTS = {"raises an error": RAISES, "answers NaN": NANS, "hangs": HANGS, "is killed": GOOD}
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
        without, with_shadow: 99th percentiles in milliseconds.
        light, busy: shares of the rows that were copied, with cores free and under full load.
    """

    without: float
    with_shadow: float
    light: float
    busy: float


def broken_canaries(
    site: Site, addresses: list[str], first: Server, plan: Plan
) -> tuple[list[list[str]], int, int]:
    """Load a gateway while its canary fails in each way; the last one's server is killed.

    Returns:
        A row of the table for each fault, and the numbers of failed requests and of mismatched
        responses.
    """
    number = plan.requests // len(FAULTS)
    rows: list[list[str]] = []
    failed, wrong = 0, 0

    async def run(url: str, fault: str, version: int) -> Outcome:
        sending = asyncio.create_task(send(f"{url}{PATH}", number, CONNECTIONS))
        killed = False
        while not sending.done():
            site.set(canary=version, percent=PERCENT)
            await asyncio.wait({sending}, timeout=RESET_SECONDS)
            if fault == "is killed" and not killed:
                killed = True
                for process in first.processes():
                    process.kill()
        return sending.result()

    site.set()
    with site.gateway(*addresses) as url:  # the first calls to a new server take longer
        asyncio.run(send(f"{url}{PATH}", WARM_UP, LIGHT_CONNECTIONS))
    for fault, version in FAULTS.items():
        site.set(canary=version, percent=PERCENT)
        with site.gateway(*addresses) as url:
            outcome = asyncio.run(run(url, fault, version))
        arms = ", ".join(f"{name} {count:,}" for name, count in sorted(outcome.arms.items()))
        p99 = 1000 * float(np.percentile(outcome.seconds, 99))
        rows.append(
            [fault, f"{number:,}", str(outcome.failed), str(outcome.wrong), arms, f"{p99:.0f} ms"]
        )
        failed, wrong = failed + outcome.failed, wrong + outcome.wrong
    return rows, failed, wrong


def routing_cost(site: Site, address: str, plan: Plan) -> tuple[list[float], list[float]]:
    """Return the requests per second of each round without a rollout, and with a canary."""
    body = site.folder / "body"
    body.write_bytes(BODY)
    site.set(canary=GOOD, percent=PERCENT)
    plain: list[float] = []
    armed: list[float] = []
    with site.gateway(address, rollout=False) as without, site.gateway(address) as with_arms:
        for index in range(plan.rounds + 1):
            turns = [(without, plain), (with_arms, armed)]
            for url, rates in turns if index % 2 else reversed(turns):
                request = Request(f"{url}{PATH}", "application/json", body)
                done = load(request, CONNECTIONS, plan.seconds if index else 1)
                if done.errors:
                    sys.exit(f"the load failed: {done}")
                if index:  # after a warm-up
                    rates.append(done.rate)
    return plain, armed


def shadow_cost(site: Site, address: str, plan: Plan) -> ShadowCost:
    """Measure the 99th percentiles without and with a shadow, in turns, and the copied rows."""
    took: dict[int | None, list[float]] = {None: [], GOOD: []}
    number = LIGHT_RATE * plan.seconds
    site.set()
    with site.gateway(address) as url:

        def ask(shadow: int | None) -> list[float]:
            site.set(shadow=shadow)
            time.sleep(1)
            outcome = asyncio.run(send(f"{url}{PATH}", number, LIGHT_CONNECTIONS, LIGHT_RATE))
            return outcome.seconds

        ask(GOOD)
        for _ in range(plan.rounds):
            for shadow, seconds in took.items():
                seconds += ask(shadow)
        before = _copied(url)
        site.set(shadow=GOOD)
        time.sleep(1)
        body = site.folder / "body"
        body.write_bytes(BODY)
        done = load(Request(f"{url}{PATH}", "application/json", body), CONNECTIONS, 2)
        copied = _copied(url) - before
    without, with_shadow = (1000 * float(np.percentile(took[each], 99)) for each in (None, GOOD))
    light = before / (number * (plan.rounds + 1))
    return ShadowCost(without, with_shadow, light, copied / done.requests)


def _copied(url: str) -> float:
    """Return the number of rows copied to the shadow."""
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    name = "client_shadow_rows_total{"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def sticky_shares() -> tuple[float, int]:
    """Return the largest error of a share in percentage points, and the number of keys that left.

    A key leaves if a larger share no longer gives it the canary.
    """
    keys = [f"caller-{number}" for number in range(KEYS)]
    largest_error, left, previous = 0.0, 0, set[str]()
    for percent in (1, 5, 25, 50):
        document = json.dumps(rollout_document("m", canary=2, percent=percent)).encode()
        split = Split(parse(document, "m"))
        current = {key for key in keys if split.by_key(key).name == "canary"}
        largest_error = max(largest_error, abs(100 * len(current) / KEYS - percent))
        left += len(previous - current)
        previous = current
    return largest_error, left


def goals(
    plan: Plan,
    broken: tuple[int, int],
    shares: tuple[float, int],
    routing: tuple[list[float], list[float]],
    shadow: ShadowCost,
    moves: Moves,
    back: Rollback,
) -> list[Goal]:
    """Return every goal with its measurement."""
    kept = statistics.median(b / a for a, b in zip(*routing, strict=True))
    rise = 100 * (shadow.with_shadow / shadow.without - 1)
    light = f"{shadow.without:.2f} ms, {LIGHT_RATE} requests per second, {shadow.light:.0%} copied"

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
        at_most("from the verdict to the last answer by that version", 2, back.last_answer, " s"),
        at_most("from the verdict to its label's end on three servers", 2, back.labels, " s"),
        at_most(f"failed of {back.requests:,} requests during that rollback", 0, back.failed),
        at_most(f"error of the canary's share among {KEYS:,} keys", 0.3, shares[0], " points"),
        at_most("keys that left the canary when its share rose", 0, shares[1]),
        at_most(
            f"throughput lost by routing, {CONNECTIONS} connections, canary of {PERCENT:g} %",
            2,
            100 * (1 - kept),
            " %",
        ),
        at_most(f"rise of p99 by a shadow, cores free ({light})", 5, rise, " %"),
        at_most(
            f"rows copied to a shadow under full load, {CONNECTIONS} connections",
            100 * shadow.light,
            100 * shadow.busy,
            " %",
        ),
    ]


@click.command()
@click.option("--quick", is_flag=True, help="Fewer requests, moves and rounds.")
@report.write_option
def main(quick: bool, folder: Path | None) -> None:
    """Measure the effects of rollouts on callers."""
    if folder and quick:
        raise click.UsageError("--write: expected a whole run, without --quick")
    plan = QUICK if quick else FULL
    shares = sticky_shares()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        controlled = Controlled(Site(Path(temporary) / "controlled", stack), SERVERS)
        moves = controlled.moves(plan.moves)
        back = controlled.rollback()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        site = Site(Path(temporary) / "site", stack)
        canaries.publish(site.base_path, STABLE)
        canaries.publish(site.base_path, GOOD)
        canaries.publish(site.base_path, RAISES, fault=canaries.RAISE)
        canaries.publish(site.base_path, NANS, fault=canaries.NAN)
        canaries.publish(site.base_path, HANGS, seconds=1.0)
        config = site.all_versions()
        first, address, _ = site.model_server(config)
        routing = routing_cost(site, address, plan)
        shadow = shadow_cost(site, address, plan)
        others = [site.model_server(config)[1] for _ in range(SERVERS - 1)]
        rows, *broken = broken_canaries(site, [address, *others], first, plan)
    found = goals(plan, (broken[0], broken[1]), shares, routing, shadow, moves, back)
    report.write_sections(
        "rollout",
        "Effects of rollouts on callers. Model servers, gateway and load share one machine; "
        f"only counts and ratios are meaningful. A canary gets {PERCENT:g} % of the requests, one "
        f"row each; its cut-out is reset every {RESET_SECONDS} s, so that it keeps failing. The "
        "labels are moved by the controller, which promotes one version after the other.",
        [
            ("", ["goal", "limit", "measured", "met"], [goal.row() for goal in found]),
            (
                f"Broken canaries, {CONNECTIONS} connections, {SERVERS} servers:",
                ["the canary", "requests", "failed", "mismatched", "answered by", "p99"],
                rows,
            ),
            ("The rollback:", ["verdict"], [[back.reason]]),
        ],
        ["grpcio", "uvicorn", "numpy"],
        folder,
    )


if __name__ == "__main__":
    main()
