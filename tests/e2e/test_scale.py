"""Several model servers and gateways behind one port with TLS, scaled under load."""

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
# Within which gateways call model servers that have appeared.
FOUND_SECONDS = 45

# Prints the number of model servers that a gateway has a connection to.
SERVERS_IN_USE = """
connections = [line.split() for line in open("/proc/net/tcp")][1:]
remotes = {remote for _, _, remote, state, *_ in connections if state == "01"}
print(sum(remote.endswith(":2134") for remote in remotes))
"""

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(1800)]


def is_prediction(status: int, headers: dict[str, str], body: bytes) -> str:
    if status != 200:
        return f"{status}: {body!r}"
    labels = [one["label"] for one in json.loads(body)["predictions"]]
    return "" if labels == ["malignant", "malignant"] else f"{labels}"


def test_scaled_up_and_down_under_load_without_failures(mountable_models: Path) -> None:
    files = ("deploy/compose.scale.yml", "tests/support/compose.trained.yml")
    compose = Compose(*FILES, *files, TRAINED=str(mountable_models))

    def scale(serving: int, client: int) -> None:
        compose(*UP, f"--scale=serving={serving}", f"--scale=client={client}", "proxy")

    def more(callers: Callers, answers: int) -> None:
        wanted = callers.answered + answers
        wait_for(lambda: callers.answered >= wanted or callers.wrong, f"{answers} more", 60)

    def uses(replica: int, servers: int) -> bool:
        command = ("exec", "-T", f"--index={replica}", "client", "python", "-c", SERVERS_IN_USE)
        return int(compose(*command)) >= servers

    try:
        scale(1, 1)
        url = f"https://{compose.address('proxy', 8443)}/predict"
        body = json.dumps(BODY).encode()
        # Callers pause, so that the machine can start further containers meanwhile.
        with Callers(url, body, is_prediction, 4, pause=0.02) as callers:
            more(callers, 100)
            scale(3, 2)
            up = time.monotonic()
            for replica in (1, 2):  # the first one was there before
                wait_for(partial(uses, replica, 3), "three servers are used", FOUND_SECONDS)
            assert time.monotonic() - up < FOUND_SECONDS
            more(callers, 200)
            scale(1, 1)
            more(callers, 100)
        assert callers.failures() == {}
    finally:
        compose.remove()
