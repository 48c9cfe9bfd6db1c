"""`GET /stats`: the numbers of `/metrics` as JSON."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from client.observability.samples import Samples
from tests.conftest import Starter
from tests.support import affine
from tests.support.processes import free_port, wait_for
from tests.support.tables import breast_cancer

ROWS = breast_cancer().features[:3].tolist()


def stats(url: str) -> Any:
    response = requests.get(f"{url}/stats", timeout=10)
    assert response.status_code == 200, response.text
    return response.json()


def scrape(url: str) -> Samples:
    text = requests.get(f"{url}/metrics", timeout=10).text
    return Samples(text_string_to_metric_families(text))


@pytest.mark.parametrize("workers", [1, 2])
def test_stats_match_the_metrics_of_all_workers(
    model_server: str, starter: Starter, workers: int
) -> None:
    url = starter.client(model_server, CLIENT_WORKERS=str(workers)).address
    before = stats(url)
    assert before["requests"]["total"] == 0
    assert before["requests"]["seconds"]["p50"] is None
    for body in [{"instances": ROWS}] * 20 + [{"instances": [["x"]]}] * 5:
        requests.post(f"{url}/predict", json=body, timeout=10)  # over a new connection
    requests.get(f"{url}/v1/models/nosuch", timeout=10)
    current, metrics = stats(url), scrape(url)

    def is_of_model(labels: Any) -> bool:
        return labels["route"] in ("/predict", "/v1/models/<model>")

    totals = current["requests"]
    assert totals["statuses"] == {"200": 20, "400": 5, "404": 1}
    assert (totals["total"], totals["errors"]) == (26, 0)
    assert totals["in_flight"] >= 1  # this one
    assert totals["total"] == metrics.total("client_http_requests_total", is_of_model)
    seconds = totals["seconds"]
    assert seconds["count"] == sum(seconds["counts"]) == 26
    assert seconds["sum"] == metrics.total("client_http_request_seconds_sum", is_of_model)
    buckets = metrics.buckets("client_http_request_seconds", is_of_model)
    assert seconds["bounds"] == list(buckets.bounds)
    assert seconds["counts"] == list(buckets.counts)
    assert 0 < seconds["p50"] <= seconds["p99"]
    calls = current["calls"]
    assert (calls["errors"], calls["rows"]) == (0, 60)
    # Each worker has requested the description and the golden rows.
    assert 20 < calls["total"] <= 20 + 2 * workers
    assert calls["total"] == metrics.total(
        "client_grpc_call_seconds_count", lambda labels: labels["rpc"] == "Predict"
    )
    assert current["queue"]["waiting"] == metrics.total("client_batch_waiting_requests") == 0
    assert current["model"] == "breast_cancer"
    versions = [{"version": 1, "state": "AVAILABLE", "golden": "ok"}]
    assert current["servers"] == [
        {"address": model_server, "state": "answers", "versions": versions}
    ]


def test_many_callers_cause_one_status_call_per_second(model_server: str, starter: Starter) -> None:
    url = starter.client(model_server).address

    def status_calls() -> float:
        return scrape(url).total(
            "client_grpc_call_seconds_count", lambda labels: labels["rpc"] == "GetModelStatus"
        )

    before, start = status_calls(), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(stats, [url] * 400))
    elapsed = time.monotonic() - start
    assert all(result["servers"][0]["state"] == "answers" for result in results)
    assert 1 <= status_calls() - before <= 2 + elapsed


def test_servers_are_listed_with_state_and_versions(tmp_path: Path, starter: Starter) -> None:
    affine.publish(tmp_path / "m", 3)
    server = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    unreachable = f"127.0.0.1:{free_port()}"
    url = starter.client(f"{server.address},{unreachable}", CLIENT_MODEL="m", ready=False).address
    version = {"version": 3, "state": "AVAILABLE", "golden": None}

    def states() -> Any:
        return {s["address"]: (s["state"], s["versions"]) for s in stats(url)["servers"]}

    wait_for(lambda: states()[server.address] == ("answers", [version]), "it answers", 20)
    wait_for(lambda: states()[unreachable] == ("left out", []), "it is left out", 20)
    other = starter.client(unreachable, CLIENT_MODEL="m", ready=False).address
    assert stats(other)["servers"] == [
        {"address": unreachable, "state": "unreachable", "versions": []}
    ]
    nosuch = starter.client(server.address, CLIENT_MODEL="nosuch", ready=False).address
    assert stats(nosuch)["servers"][0] == {
        "address": server.address,
        "state": "answers",
        "versions": [],
    }


@pytest.mark.parametrize(
    ("observed", "fraction", "expected"),
    [
        ([], 0.5, None),
        ([0.5] * 4, 0.5, 0.5),  # half way through the bucket from 0 to 1
        ([0.5, 1.5, 1.5, 3], 0.5, 1.5),
        ([1.5] * 10, 0.99, 1.99),
        ([3, 9, 9, 9], 0.99, 4.0),  # beyond the last bound
    ],
)
def test_quantiles_are_interpolated_within_their_bucket(
    observed: list[float], fraction: float, expected: float | None
) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", buckets=(1, 2, 4), registry=registry)
    for value in observed:
        histogram.observe(value)
    quantile = Samples(registry.collect()).buckets("h").quantile(fraction)
    assert quantile == (None if expected is None else pytest.approx(expected))


def test_probes_of_a_model_are_not_counted(model_server: str, starter: Starter) -> None:
    url = starter.client(model_server).address
    for path in ("breast_cancer", "breast_cancer/versions/1", "nosuch"):
        requests.get(f"{url}/v2/models/{path}/ready", timeout=10)
    assert stats(url)["requests"]["total"] == stats(url)["requests"]["seconds"]["count"] == 0
    requests.get(f"{url}/v2/models/breast_cancer", timeout=10)
    assert stats(url)["requests"]["statuses"] == {"200": 1}
