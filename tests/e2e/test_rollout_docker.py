"""Compose with a rollout controller, on the embedded model server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.containers import BODY, FILES, UP, Compose, docker, inspect
from tests.support.processes import wait_for

WHERE = (
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
        trained = f"--volume={mountable_models}:/trained:ro"
        compose(*IN_TRAINING, trained, "training", "-c", "cp -r /trained/. /models")
        compose("up", *UP)
        yield compose
    finally:
        compose.remove()


def rollout(compose: Compose, command: str) -> dict[str, Any]:
    """Run a command in the controller's container, and return what it prints."""
    run = ("exec", "-T", "rollout", "python", "-m", "rollout", command, *WHERE, "--json")
    printed: dict[str, Any] = json.loads(compose(*run))
    return printed


def answering(compose: Compose) -> int:
    reply = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
    assert reply.status_code == 200
    return int(reply.json()["version"])


def test_a_new_version_begins_in_shadow_and_can_be_aborted(compose: Compose) -> None:
    assert answering(compose) == 1
    compose(*IN_TRAINING, "training", "-c", PUBLISH)

    def phase() -> str:
        state = json.loads(compose("exec", "-T", "rollout", "cat", "/rollout/breast_cancer.json"))
        return str(state["phase"])

    wait_for(lambda: phase() == "shadow", "version 2 is in shadow", 60)
    assert answering(compose) == 1
    status = rollout(compose, "status")
    assert status["servers"].popitem()[1]["versions"] == {"1": "AVAILABLE", "2": "AVAILABLE"}
    assert "calls in each arm" in status["verdict"]["reason"]  # the gateway has been read
    aborted = rollout(compose, "abort")
    assert (aborted["phase"], aborted["stable"], aborted["reason"]) == (
        "rolled_back",
        1,
        "aborted version 2 by hand",
    )
    assert answering(compose) == 1


def test_the_controller_has_no_rights_that_it_does_not_need(compose: Compose) -> None:
    assert compose("exec", "-T", "rollout", "id", "-u") == "10001"
    about = inspect(compose, "rollout")
    assert about["HostConfig"]["CapDrop"] == ["ALL"]
    assert about["HostConfig"]["ReadonlyRootfs"] is True
    writable = {mount["Destination"]: mount["RW"] for mount in about["Mounts"]}
    assert writable == {"/models": False, "/rollout": True}


@pytest.mark.usefixtures("images")
def test_the_image_s_default_command_becomes_healthy(mountable_models: Path) -> None:
    mount = f"--volume={mountable_models}:/models:ro"
    container = docker("run", "--detach", mount, "logreg-serving/rollout")

    def health() -> str:
        return docker("inspect", "--format={{.State.Health.Status}}", container)

    try:
        wait_for(lambda: health() == "healthy", "the controller is healthy", 60)
    finally:
        docker("rm", "--force", "--volumes", container)
