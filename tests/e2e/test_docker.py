"""The containers: compose with our model server, and `make run SERVER=docker`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from client.http.api_keys import hash_key
from client.settings import Settings
from tests.conftest import Starter
from tests.e2e.test_make_run import STOP_SECONDS, make_run, stop_with_ctrl_c
from tests.support.caller import Caller, models_config, refused
from tests.support.containers import BODY, FILES, UP, Compose, docker, inspect
from tests.support.processes import ROOT, free_port, wait_for
from tests.training.test_workers import theta_of
from training import pipeline as job
from training.data import datasets as builtin
from training.data.reading import open_source
from training.data.table import Choice
from training.settings import FitSettings

SERVING_IMAGE = "logreg-serving/serving"

pytestmark = [pytest.mark.usefixtures("docker_engine"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def compose(images: None) -> Iterator[Compose]:
    compose = Compose(CLIENT_SERVER_TIMING="true")
    try:
        compose("up", *UP)
        yield compose
    finally:
        compose.remove()


def test_from_a_checkout_to_a_prediction_over_http(compose: Compose) -> None:
    reply = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
    assert reply.status_code == 200
    assert [p["label"] for p in reply.json()["predictions"]] == ["malignant", "malignant"]


def test_a_second_version_is_served_without_a_restart(compose: Compose) -> None:
    """Published as the job does it; a second run of the job is in the README's test."""
    publish = "cd /models/breast_cancer && cp -r 1 .new && mv .new 2"
    compose("run", "--rm", "--entrypoint=sh", "training", "-c", publish)

    def served() -> int:
        reply = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
        assert reply.status_code == 200
        return int(reply.json()["version"])

    wait_for(lambda: served() == 2, "the new version", 20)


@pytest.mark.parametrize("service", ["serving", "client"])
def test_nothing_runs_as_root_or_with_privileges(compose: Compose, service: str) -> None:
    assert compose("exec", "-T", service, "id", "-u") == "10001"
    host = inspect(compose, service)["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"] is True


def test_the_server_can_only_read_the_models(compose: Compose) -> None:
    (mount,) = inspect(compose, "serving")["Mounts"]
    assert (mount["Destination"], mount["RW"]) == ("/models", False)


def test_nobody_can_make_the_server_load_what_is_elsewhere(compose: Compose) -> None:
    with Caller(compose.address("serving", 8500)) as caller:
        for path in ("/", "/tmp/m", "/models/../tmp/m"):
            with refused("PERMISSION_DENIED", "below /models (--reload_root)"):
                caller.reload(models_config(f'name: "m" base_path: "{path}"'))


def test_ports_are_open_to_this_machine_only(compose: Compose) -> None:
    for service in ("serving", "client"):
        bindings = inspect(compose, service)["HostConfig"]["PortBindings"].values()
        assert {b["HostIp"] for binding in bindings for b in binding} == {"127.0.0.1"}


@pytest.mark.usefixtures("images")
def test_the_client_s_image_has_no_tensorflow_package() -> None:
    code = (
        "import importlib.util as u, client.http.server;"
        "print(u.find_spec('tensorflow').origin, u.find_spec('pip'))"
    )
    assert in_client_image(code) == "None None"


@pytest.mark.usefixtures("images")
def test_the_client_s_image_can_send_traces() -> None:
    code = "from client.observability import tracing; print(tracing.start())"
    endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
    assert in_client_image(code, "-e", endpoint).startswith(
        "<client.observability.tracing.Tracing object"
    )
    assert in_client_image(code, "-e", "OTEL_EXPORTER_OTLP_ENDPOINT=") == "None"


# Limits of the images' sizes in MB; docs/scale.md has the sizes.
SIZES = {"training": 1700, "serving": 1300, "client": 200, "rollout": 280, "monitoring": 600}
BUILD_TOOLS = ("gcc", "make", "uv", "git", "strip")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("room", SIZES)
def test_images_are_lean_and_list_their_packages(room: str) -> None:
    image = f"logreg-serving/{room}"
    (found,) = json.loads(docker("image", "inspect", image))
    assert found["Size"] < SIZES[room] * 1_000_000
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == image
    assert labels["org.opencontainers.image.base.name"] == "python:3.13-slim"
    assert {"description", "licenses", "revision"} <= {n.rpartition(".")[2] for n in labels}
    script = f"command -v {' '.join(BUILD_TOOLS)}; cat /opt/venv/sbom.cdx.json"
    show = docker("run", "--rm", "--entrypoint=sh", image, "-c", script)
    assert show.startswith("{")  # and no path of a build tool
    names = {component["name"] for component in json.loads(show)["components"]}
    assert {"numpy", "click"} <= names
    has_tensorflow = room in ("training", "serving")
    assert ("tensorflow_cpu" in names or "tensorflow" in names) == has_tensorflow


def in_client_image(code: str, *options: str) -> str:
    """Run a program in the client's image, and return its output."""
    image = "logreg-serving/client"
    return docker("run", "--rm", "--entrypoint=python", *options, image, "-c", code)


def test_settings_reach_the_client(compose: Compose) -> None:
    response = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
    assert "Server-Timing" in response.headers  # the fixture sets CLIENT_SERVER_TIMING


def test_api_keys_that_only_their_owner_can_read(compose: Compose, tmp_path: Path) -> None:
    key = "the key"
    keys = tmp_path / "api_keys"
    keys.write_text(f"shop {hash_key(key)}\n")
    keys.chmod(0o600)
    with_secrets = compose.with_file("deploy/compose.secrets.yml")
    environment = {
        "SECRETS": str(tmp_path),
        "SECRETS_USER": str(os.getuid()),
        "CLIENT_API_KEYS": "/run/secrets/api_keys",
    }
    with_secrets("up", *UP, "--no-deps", "client", **environment)
    url = f"{compose.url}/predict"
    assert requests.post(url, json=BODY, timeout=10).status_code == 401
    headers = {"X-API-Key": key}
    assert requests.post(url, json=BODY, headers=headers, timeout=10).status_code == 200


def test_the_client_stays_alive_without_a_server_and_down_takes_less_than_five_seconds(
    compose: Compose,
) -> None:
    """The last test of the running containers."""
    compose("kill", "-s", "SIGKILL", "serving")
    wait_for(lambda: requests.get(f"{compose.url}/readyz", timeout=5).status_code == 503, "away")
    (kind, *health_check) = inspect(compose, "client")["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    compose("exec", "-T", "client", *health_check)
    started = time.monotonic()
    compose("down")
    assert time.monotonic() - started < 5


def test_every_setting_of_the_client_can_be_given_to_compose() -> None:
    """Except for those that Compose sets itself."""
    own = {"server": "serving:8500", "model": "churn", "host": "0.0.0.0", "port": ""}
    given = {f"CLIENT_{name.upper()}": f"value of {name}" for name in Settings.model_fields}
    config = yaml.safe_load(docker("compose", "-f", FILES[0], "config", MODEL="churn", **given))
    environment = config["services"]["client"]["environment"]
    for name in Settings.model_fields:
        expected = own.get(name, f"value of {name}")
        assert environment.get(f"CLIENT_{name.upper()}", "") == expected


def test_the_plain_file_runs_tensorflow_serving_itself() -> None:
    config = yaml.safe_load(docker("compose", "-f", FILES[0], "config"))
    serving = config["services"]["serving"]
    assert serving["image"] == "tensorflow/serving:2.20.0"
    # Not the image's own entrypoint, a shell that swallows SIGTERM.
    assert serving["entrypoint"] == ["tensorflow_model_server"]
    assert serving["init"] is True
    assert "--grpc_max_threads=64" in serving["command"]
    check = " ".join(serving["healthcheck"]["test"])
    assert "bash" in check
    assert not {"curl", "wget", "python"} & set(check.replace("/", " ").split())
    assert {name: d["condition"] for name, d in serving["depends_on"].items()} == {
        "training": "service_completed_successfully"
    }
    other = yaml.safe_load(docker("compose", "-f", FILES[0], "config", TF_SERVING_VERSION="2.19.1"))
    assert other["services"]["serving"]["image"] == "tensorflow/serving:2.19.1"


def test_the_embedded_file_swaps_the_image_and_confines_reloads() -> None:
    over = yaml.safe_load((ROOT / FILES[1]).read_text())
    assert list(over) == ["services"]
    assert {name: set(keys) for name, keys in over["services"].items()} == {
        "serving": {"build", "image", "environment"}
    }


@pytest.mark.usefixtures("images")
def test_make_run_with_the_server_in_a_container(models: Path, starter: Starter) -> None:
    port = str(free_port())
    settings = {"SERVER": "docker", "ROLLOUT": "auto", "TF_SERVING_IMAGE": SERVING_IMAGE}
    running, url = make_run(starter, models, SERVING_PORT=port, **settings)
    name = f"logreg-serving-{port}"
    assert name in docker("ps", "--format={{.Names}}").split()
    assert requests.post(f"{url}/predict", json=BODY, timeout=10).status_code == 200

    docker("kill", name)
    wait_for(lambda: requests.get(f"{url}/readyz", timeout=5).status_code == 503, "noticed", 10)
    wait_for(lambda: requests.get(f"{url}/readyz", timeout=5).ok, "a new container", 60)

    # The container follows the controller's file, which moves no traffic to a new version.
    shutil.copytree(models / "breast_cancer" / "1", models / ".2")
    (models / ".2").rename(models / "breast_cancer" / "2")
    rollout = models / ".rollout" / "breast_cancer.json"
    wait_for(lambda: json.loads(rollout.read_text())["phase"] == "shadow", "it is loaded", 60)
    assert requests.post(f"{url}/predict", json=BODY, timeout=10).json()["version"] == 1

    assert stop_with_ctrl_c(running) < STOP_SECONDS
    assert name not in docker("ps", "-a", "--format={{.Names}}").split()


@pytest.mark.usefixtures("images")
def test_a_container_left_over_by_a_killed_run_is_replaced(models: Path, starter: Starter) -> None:
    port = free_port()
    command = [
        "docker", "create", f"--name=logreg-serving-{port}",
        "--label=org.logreg-serving.role=model-server", SERVING_IMAGE,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    running = run_container(starter, models, port)
    wait_for(lambda: "Successfully loaded servable" in running.output(), "the model is served")
    assert running.stop(signal.SIGTERM) == 0
    assert f"logreg-serving-{port}" not in docker("ps", "-a", "--format={{.Names}}").split()


def run_container(starter: Starter, models: Path, port: int, **environment: str) -> Any:
    command = [sys.executable, "-m", "launcher.container", f"--port={port}"]
    command += ["--model_name=breast_cancer", f"--model_base_path={models / 'breast_cancer'}"]
    return starter.command(command, **{"TF_SERVING_IMAGE": SERVING_IMAGE, **environment})


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DOCKER_HOST": "unix:///nosuch.sock"}, "Error: cannot reach Docker: "),
        (
            {"TF_SERVING_IMAGE": "127.0.0.1:1/nosuch"},
            "Error: image 127.0.0.1:1/nosuch is not on this machine and cannot be pulled",
        ),
    ],
)
def test_no_engine_and_no_image_are_one_clear_line(
    models: Path, starter: Starter, environment: dict[str, str], message: str
) -> None:
    running = run_container(starter, models, free_port(), **environment)
    assert running.process.wait(60) == 1
    assert message in running.output()
    assert "Traceback" not in running.output()


@pytest.mark.usefixtures("images")
def test_a_port_taken_is_one_clear_line(models: Path, starter: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = run_container(starter, models, taken.getsockname()[1])
        assert running.process.wait(60) == 1
    assert "Error: cannot run the container:" in running.output()
    assert "address already in use" in running.output()
    assert "Traceback" not in running.output()


@pytest.mark.usefixtures("images")
def test_a_fit_over_two_containers_gives_the_weights_of_one_process(tmp_path: Path) -> None:
    frame = builtin.customers(4000)
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        frame[number * 1000 : (number + 1) * 1000].write_parquet(data / f"{number}.parquet")
    for path in (tmp_path, data, *data.iterdir()):
        path.chmod(0o755)
    variables = {"MODEL": "customers", "LABEL": "churned", "DATA": str(data)}
    compose = Compose(FILES[0], "deploy/compose.workers.yml", **variables)
    try:
        compose("up", "--scale=training=2", "training")
        containers = compose("ps", "-aq", "training").split()
        assert [docker("inspect", "-f", "{{.State.ExitCode}}", c) for c in containers] == ["0", "0"]
        logs = [docker("logs", container) for container in containers]
        assert sorted(logs) == ["", "/models/customers/1"]  # only the first worker publishes
        together = tmp_path / "together"
        docker("cp", f"{containers[0]}:/models/customers/1", str(together))
    finally:
        compose.remove()
    assert json.loads((together / "manifest.json").read_text())["rows"]["read"] == 4000
    alone = job.fit(open_source(str(data)), Choice("churned"), FitSettings(optimizer="newton"))
    assert theta_of(together) == pytest.approx(alone.fit.theta, abs=1e-5)
