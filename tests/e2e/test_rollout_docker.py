"""Docker Compose with a rollout controller and the embedded model server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.containers import BODY, FILES, UP, Compose, docker, inspect
from tests.support.processes import wait_for

OPTIONS = (
    "--models=/models",
    "--state=/rollout",
    "--servers=http://serving:8501",
    "--gateways=http://client:8080",
)

pytestmark = [pytest.mark.usefixtures("docker_engine"), pytest.mark.timeout(1800)]


IN_TRAINING = ("run", "--rm", "--no-deps", "--entrypoint=sh")
PUBLISH = "cd /models/breast_cancer && cp -r 1 .2 && mv .2 2"


@pytest.fixture(scope="module")
def compose(images: None, mountable_models: Path) -> Iterator[Compose]:
    compose = Compose(*FILES, "deploy/compose.rollout.yml")
    try:
        volume = f"--volume={mountable_models}:/trained:ro"
        compose(*IN_TRAINING, volume, "training", "-c", "cp -r /trained/. /models")
        compose("up", *UP)
        yield compose
    finally:
        compose.remove()


def run_rollout(compose: Compose, command: str) -> dict[str, Any]:
    """Run a command in the controller's container and return its JSON output."""
    run = ("exec", "-T", "rollout", "python", "-m", "rollout", command, *OPTIONS, "--json")
    output: dict[str, Any] = json.loads(compose(*run))
    return output


def served_version(compose: Compose) -> int:
    response = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
    assert response.status_code == 200
    return int(response.json()["version"])


def test_new_version_begins_in_shadow_and_can_be_aborted(compose: Compose) -> None:
    assert served_version(compose) == 1
    compose(*IN_TRAINING, "training", "-c", PUBLISH)

    def phase() -> str:
        state = json.loads(compose("exec", "-T", "rollout", "cat", "/rollout/breast_cancer.json"))
        return str(state["phase"])

    wait_for(lambda: phase() == "shadow", "version 2 is in shadow", 60)
    assert served_version(compose) == 1
    status = run_rollout(compose, "status")
    assert status["servers"].popitem()[1]["versions"] == {"1": "AVAILABLE", "2": "AVAILABLE"}
    assert "calls in each arm" in status["verdict"]["reason"]  # the gateway has been read
    aborted = run_rollout(compose, "abort")
    assert (aborted["phase"], aborted["stable"], aborted["reason"]) == (
        "rolled_back",
        1,
        "aborted version 2 by hand",
    )
    assert served_version(compose) == 1


def test_controller_runs_with_least_privilege(compose: Compose) -> None:
    assert compose("exec", "-T", "rollout", "id", "-u") == "10001"
    container = inspect(compose, "rollout")
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    writable = {mount["Destination"]: mount["RW"] for mount in container["Mounts"]}
    assert writable == {"/models": False, "/rollout": True}


@pytest.mark.usefixtures("images")
def test_image_with_its_default_command_becomes_healthy(mountable_models: Path) -> None:
    mount = f"--volume={mountable_models}:/models:ro"
    container = docker("run", "--detach", mount, "logreg-serving/rollout")

    def health() -> str:
        return docker("inspect", "--format={{.State.Health.Status}}", container)

    try:
        wait_for(lambda: health() == "healthy", "the controller is healthy", 60)
    finally:
        docker("rm", "--force", "--volumes", container)
