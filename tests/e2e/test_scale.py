"""Several model servers and gateways behind one TLS port, scaled under load."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.callers import Callers
from tests.support.containers import BODY, FILES, Compose
from tests.support.processes import wait_for

UP = ("up", "-d", "--no-recreate", "--wait", "--wait-timeout=240")
# Limit for gateways to connect to new model servers.
DISCOVERY_SECONDS = 45

# Prints the number of model servers that a gateway has a connection to.
SERVERS_IN_USE = """
connections = [line.split() for line in open("/proc/net/tcp")][1:]
remotes = {remote for _, _, remote, state, *_ in connections if state == "01"}
print(sum(remote.endswith(":2134") for remote in remotes))
"""

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(1800)]


def find_fault(status: int, headers: dict[str, str], body: bytes) -> str:
    if status != 200:
        return f"{status}: {body!r}"
    labels = [row["label"] for row in json.loads(body)["predictions"]]
    return "" if labels == ["malignant", "malignant"] else f"{labels}"


def test_scaling_under_load_causes_no_failures(mountable_models: Path) -> None:
    files = ("deploy/compose.scale.yml", "tests/support/compose.trained.yml")
    compose = Compose(*FILES, *files, TRAINED=str(mountable_models))

    def scale(serving: int, client: int) -> None:
        compose(*UP, f"--scale=serving={serving}", f"--scale=client={client}", "proxy")

    def wait_for_answers(callers: Callers, answers: int) -> None:
        target = callers.ok_count + answers
        wait_for(lambda: callers.ok_count >= target or callers.faults, f"{answers} more", 60)

    def is_connected(replica: int, servers: int) -> bool:
        command = ("exec", "-T", f"--index={replica}", "client", "python", "-c", SERVERS_IN_USE)
        return int(compose(*command)) >= servers

    try:
        scale(1, 1)
        url = f"https://{compose.address('proxy', 8443)}/predict"
        body = json.dumps(BODY).encode()
        # The pauses leave the machine time to start containers.
        with Callers(url, body, find_fault, 4, pause=0.02) as callers:
            wait_for_answers(callers, 100)
            scale(3, 2)
            scaled_at = time.monotonic()
            for replica in (1, 2):  # the first was there before
                wait_for(partial(is_connected, replica, 3), "three connections", DISCOVERY_SECONDS)
            assert time.monotonic() - scaled_at < DISCOVERY_SECONDS
            wait_for_answers(callers, 200)
            scale(1, 1)
            wait_for_answers(callers, 100)
        assert callers.faults == {}
    finally:
        compose.remove()
