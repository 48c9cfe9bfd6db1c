"""Docker gives containers enough time to finish their requests when they are stopped."""

from __future__ import annotations

import yaml

from client.http.server import KILL_SECONDS
from client.http.worker import DRAIN_SECONDS
from tests.support.kubernetes import find
from tests.support.processes import ROOT


def grace_seconds(file: str, service: str) -> int:
    services = yaml.safe_load((ROOT / file).read_text().replace("!reset", ""))["services"]
    return int(services[service]["stop_grace_period"].removesuffix("s"))


def test_gateways_and_servers_are_not_killed_while_they_drain() -> None:
    (client,) = find("base", "Deployment", "client")["spec"]["template"]["spec"]["containers"]
    (delay,) = (v["value"] for v in client["env"] if v["name"] == "CLIENT_DRAIN_DELAY")
    needed = int(delay) + DRAIN_SECONDS + KILL_SECONDS
    for service in ("serving", "client"):
        assert grace_seconds("docker-compose.yml", service) > needed


def test_proxy_finishes_its_requests_before_stopping() -> None:
    assert "\nSTOPSIGNAL SIGQUIT\n" in (ROOT / "deploy" / "proxy" / "Dockerfile").read_text()
    assert grace_seconds("deploy/compose.scale.yml", "proxy") > DRAIN_SECONDS + KILL_SECONDS
