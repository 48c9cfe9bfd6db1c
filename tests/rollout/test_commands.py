"""The commands and `watch`, with a real model server and simulated gateway metrics."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator

import pytest
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from tests.conftest import Starter
from tests.rollout.conftest import Serve, Site
from tests.support.processes import free_port, wait_for


class Metrics:
    """The metrics of a gateway; `outcome` is the outcome of its canary calls."""

    def __init__(self, site: Site) -> None:
        registry = CollectorRegistry()
        labels = ("model", "version", "arm", "outcome")
        self.calls = Counter("client_arm_calls", "", labels, registry=registry)
        self.seconds = Histogram("client_arm_call_seconds", "", labels[:3], registry=registry)
        self.generation = Gauge("client_rollout_generation", "", ("model",), registry=registry)
        self.outcome = "ok"
        self._site = site
        self._stopped = threading.Event()
        server, thread = start_http_server(0, "127.0.0.1", registry)
        site.gateways.append(f"http://127.0.0.1:{server.server_port}")
        self._closing = [server.shutdown, thread.join, server.server_close, self._stopped.set]
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def close(self) -> None:
        for step in self._closing:
            step()
        self._thread.join()

    def _count(self) -> None:
        while not self._stopped.wait(0.05):
            try:
                state = self._site.state()
            except FileNotFoundError:
                continue
            self.generation.labels("m").set(state["generation"])
            if state["percent"]:
                for version, arm, outcome in (
                    (state["canary"], "canary", self.outcome),
                    (state["stable"], "control", "ok"),
                ):
                    self.calls.labels("m", str(version), arm, outcome).inc(20)
                    for _ in range(20):
                        self.seconds.labels("m", str(version), arm).observe(0.01)


@pytest.fixture
def metrics(site: Site) -> Iterator[Metrics]:
    metrics = Metrics(site)
    yield metrics
    metrics.close()


def test_start_sets_the_share_and_dry_run_changes_nothing(
    site: Site, serve: Serve, metrics: Metrics
) -> None:
    serve()
    site.publish(2)
    before = site.state()
    assert "would be: m: loading" in site("start", "2", "--percent=10", "--dry-run")
    assert site.state() == before
    assert "there is no version 9; published versions: 1, 2" in site.expect_error("start", "9")

    options = "--percent=10", "--manual", "--bake=1h", "--tolerance=2", "--json"
    started = json.loads(site("start", "2", *options))
    assert (started["phase"], started["percent"]) == ("canary", 10)
    raised = json.loads(site("start", "2", "--percent=30", "--tolerance=3", "--json"))
    assert (raised["percent"], raised["salt"]) == (30, started["salt"])  # callers keep their arm
    assert (raised["manual"], raised["bake"], raised["tolerance"]) == (True, 3600, 3)
    site.publish(3)
    assert "a rollout of version 2 is in progress (canary, 30%)" in site.expect_error("start", "3")

    output = site("status")
    assert "version 2, 30% of the requests" in output
    assert "AVAILABLE" in output
    status = json.loads(site("status", "--json"))
    assert status["state"] == site.state()
    assert status["verdict"]["action"] == "wait"
    shadow = json.loads(site("shadow", "2", "--json"))
    assert (shadow["phase"], shadow["manual"], shadow["bake"]) == ("shadow", True, 3600)
    resumed = json.loads(site("start", "2", "--percent=30", "--json"))
    assert (resumed["manual"], resumed["bake"]) == (False, 3600)
    site("abort")
    assert site.state()["reason"] == "aborted version 2 by hand"
    for command in ("abort", "promote"):
        assert "no rollout is in progress" in site.expect_error(command)


def test_watch_promotes_or_rolls_back_published_versions(
    site: Site, serve: Serve, metrics: Metrics, starter: Starter
) -> None:
    serve()
    port = free_port()
    options = ("--auto", "--steps=10,50", "--bake=1s", f"--metrics-port={port}")
    command = [sys.executable, "-m", "rollout", *site.arguments("watch", *options)]
    watch = starter.command(command)
    site.publish(2)
    wait_for(lambda: site.state()["phase"] == "promoted", "version 2 is promoted")
    assert (site.state()["stable"], site.state()["previous"]) == (2, 1)
    assert "at most" in site.state()["reason"]

    metrics.outcome = "failed"
    site.publish(3)
    wait_for(lambda: site.state()["phase"] == "rolled_back", "version 3 is rolled back")
    assert site.state()["stable"] == 2
    assert "calls failed, against 0 of" in site.state()["reason"]

    def scrape() -> str:
        return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text

    # The metrics are updated after the file.
    wait_for(lambda: 'rollout_rolled_back_total{model="m"} 1.0' in scrape(), "it is counted", 10)
    assert 'rollout_stable_version{model="m"} 2.0' in scrape()

    assert "already watches m" in site.expect_error("watch")
    assert watch.stop() == 0
    assert "Traceback" not in watch.output()
    assert "rolled back version 3" in watch.output()
    phases = [state["phase"] for state in site.history()]
    assert phases[:5] == ["idle", "loading", "canary", "canary", "promoted"]


def test_the_service_logs_that_a_manual_step_may_be_taken(
    site: Site, serve: Serve, metrics: Metrics, starter: Starter
) -> None:
    serve()
    options = ("--auto", "--manual", "--steps=10", "--bake=1s")
    command = [sys.executable, "-m", "rollout", *site.arguments("watch", *options)]
    watch = starter.command(command)
    site.publish(2)
    expected = "version 2 at 10%: ready for the next step"
    wait_for(lambda: expected in watch.output(), "the step may be taken")
    assert "version 2 at 10%: waiting" in watch.output()
    assert site.state()["phase"] == "canary"
