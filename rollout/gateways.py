"""The gateways' counters, read from `GET /metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from rollout.network import UnreachableError, call_each, get, resolve_addresses

# A gateway has thousands of other series; they are not parsed.
_PREFIXES = ("client_arm_", "client_shadow_", "client_golden", "client_rollout_")

Counters = Mapping[str, float]


@dataclass(frozen=True)
class Gateway:
    """A gateway's state.

    Attributes:
        counters: counters of the model; the functions below return their keys.
        generation: generation of the rollout file that it follows; None if it follows none.
        unreadable: whether it cannot read that file.
        cut_out: versions that get no requests because they failed.
        golden_failures: (version, server) pairs with incorrect answers to golden rows.
        problem: why there is no state; "" if there is one.
    """

    counters: Counters = field(default_factory=dict)
    generation: int | None = None
    unreadable: bool = False
    cut_out: frozenset[int] = frozenset()
    golden_failures: tuple[tuple[int, str], ...] = ()
    problem: str = ""


Gateways = Mapping[str, Gateway]  # by ip:port


def calls(arm: str, version: str, outcome: str) -> str:
    """Return the key of an arm's calls."""
    return f"calls/{arm}/{version}/{outcome}"


def seconds(arm: str, version: str, le: str) -> str:
    """Return the key of an arm's calls that took at most `le` seconds."""
    return f"seconds/{arm}/{version}/{le}"


def requests(arm: str, version: str, outcome: str) -> str:
    """Return the key of an arm's requests."""
    return f"requests/{arm}/{version}/{outcome}"


def shadow(kind: str, version: str, outcome: str) -> str:
    """Return the key of a shadow version's calls (kind "shadow") or rows (kind "rows")."""
    return f"{kind}/{version}/{outcome}"


# Gauges of 0 or 1.
_FLAGS = ("client_golden", "client_rollout_cutout", "client_rollout_unreadable")

_COUNTERS = {
    "client_arm_calls_total": lambda labels: calls(
        labels["arm"], labels["version"], labels["outcome"]
    ),
    "client_arm_call_seconds_bucket": lambda labels: seconds(
        labels["arm"], labels["version"], labels["le"]
    ),
    "client_arm_requests_total": lambda labels: requests(
        labels["arm"], labels["version"], labels["outcome"]
    ),
    "client_shadow_calls_total": lambda labels: shadow(
        "shadow", labels["version"], labels["outcome"]
    ),
    "client_shadow_rows_total": lambda labels: shadow("rows", labels["version"], labels["outcome"]),
}


def observe(urls: Sequence[str], model: str) -> Gateways:
    """Read the counters of all gateways behind these URLs."""
    return call_each(resolve_addresses(urls), lambda address: _fetch(address, model))


def _fetch(address: str, model: str) -> Gateway:
    try:
        status, body = get(address, "/metrics")
        if status != 200:
            return Gateway(problem=f"not a gateway: GET /metrics returned {status}")
        return parse(body.decode(), model)
    except UnreachableError as error:
        return Gateway(problem=str(error))
    except (ValueError, KeyError) as error:
        return Gateway(problem=f"not a gateway: cannot read GET /metrics: {error}")


def parse(text: str, model: str) -> Gateway:
    """Parse a gateway's metrics of a model, in the Prometheus text format.

    Raises:
        ValueError, KeyError: the text is not in that format, or lacks labels.
    """
    lines = "".join(f"{line}\n" for line in text.split("\n") if line.startswith(_PREFIXES))
    counters: dict[str, float] = {}
    generation, unreadable = None, False
    cut_out: set[int] = set()
    golden_failures: set[tuple[int, str]] = set()
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            labels = sample.labels
            if labels.get("model") != model or (sample.name in _FLAGS and not sample.value):
                continue
            if (make_key := _COUNTERS.get(sample.name)) is not None:
                key = make_key(labels)
                counters[key] = counters.get(key, 0.0) + sample.value
            elif sample.name == "client_rollout_generation":
                generation = min(generation or int(sample.value), int(sample.value))
            elif sample.name == "client_rollout_unreadable":
                unreadable = True
            elif sample.name == "client_rollout_cutout":
                cut_out.add(int(labels["version"]))
            elif sample.name == "client_golden" and labels["result"] == "wrong":
                golden_failures.add((int(labels["version"]), labels["server"]))
    return Gateway(
        counters, generation, unreadable, frozenset(cut_out), tuple(sorted(golden_failures))
    )
