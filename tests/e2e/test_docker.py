"""Docker Compose with the embedded model server, and `make run SERVER=docker`."""

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
from tests.support.caller import Caller, models_config, raises_rpc_error
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


def test_compose_serves_predictions_over_http(compose: Compose) -> None:
    response = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
    assert response.status_code == 200
    assert [p["label"] for p in response.json()["predictions"]] == ["malignant", "malignant"]


def test_new_version_is_served_without_a_restart(compose: Compose) -> None:
    """Publish as the training job does; the README test runs the job a second time."""
    publish = "cd /models/breast_cancer && cp -r 1 .new && mv .new 2"
    compose("run", "--rm", "--entrypoint=sh", "training", "-c", publish)

    def served_version() -> int:
        response = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
        assert response.status_code == 200
        return int(response.json()["version"])

    wait_for(lambda: served_version() == 2, "version 2 is served", 20)


@pytest.mark.parametrize("service", ["serving", "client"])
def test_containers_run_unprivileged(compose: Compose, service: str) -> None:
    assert compose("exec", "-T", service, "id", "-u") == "10001"
    host = inspect(compose, service)["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"] is True


def test_model_server_mounts_the_models_read_only(compose: Compose) -> None:
    (mount,) = inspect(compose, "serving")["Mounts"]
    assert (mount["Destination"], mount["RW"]) == ("/models", False)


def test_reload_rejects_base_paths_outside_the_models_directory(compose: Compose) -> None:
    with Caller(compose.address("serving", 8500)) as caller:
        for path in ("/", "/tmp/m", "/models/../tmp/m"):
            with raises_rpc_error("PERMISSION_DENIED", "below /models (--reload_root)"):
                caller.reload(models_config(f'name: "m" base_path: "{path}"'))


def test_ports_are_published_on_loopback_only(compose: Compose) -> None:
    for service in ("serving", "client"):
        bindings = inspect(compose, service)["HostConfig"]["PortBindings"].values()
        assert {b["HostIp"] for binding in bindings for b in binding} == {"127.0.0.1"}


@pytest.mark.usefixtures("images")
def test_client_image_has_neither_tensorflow_nor_pip() -> None:
    code = (
        "import importlib.util as u, client.http.server;"
        "print(u.find_spec('tensorflow').origin, u.find_spec('pip'))"
    )
    assert run_in_client_image(code) == "None None"


@pytest.mark.usefixtures("images")
def test_client_image_can_send_traces() -> None:
    code = "from client.observability import tracing; print(tracing.start())"
    endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
    assert run_in_client_image(code, "-e", endpoint).startswith(
        "<client.observability.tracing.Tracing object"
    )
    assert run_in_client_image(code, "-e", "OTEL_EXPORTER_OTLP_ENDPOINT=") == "None"


# docs/scale.md lists the actual sizes.
MAX_SIZES_MB = {"training": 1700, "serving": 1300, "client": 200, "rollout": 280, "monitoring": 600}
BUILD_TOOLS = ("gcc", "make", "uv", "git", "strip")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("room", MAX_SIZES_MB)
def test_images_are_lean_and_list_their_packages(room: str) -> None:
    image = f"logreg-serving/{room}"
    (image_info,) = json.loads(docker("image", "inspect", image))
    assert image_info["Size"] < MAX_SIZES_MB[room] * 1_000_000
    labels = image_info["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == image
    assert labels["org.opencontainers.image.base.name"] == "python:3.13-slim"
    assert {"description", "licenses", "revision"} <= {n.rpartition(".")[2] for n in labels}
    script = f"command -v {' '.join(BUILD_TOOLS)}; cat /opt/venv/sbom.cdx.json"
    output = docker("run", "--rm", "--entrypoint=sh", image, "-c", script)
    assert output.startswith("{")  # not with the path of a build tool
    names = {component["name"] for component in json.loads(output)["components"]}
    assert {"numpy", "click"} <= names
    has_tensorflow = room in ("training", "serving")
    assert ("tensorflow_cpu" in names or "tensorflow" in names) == has_tensorflow


def run_in_client_image(code: str, *options: str) -> str:
    """Run a program in the client image and return its output."""
    image = "logreg-serving/client"
    return docker("run", "--rm", "--entrypoint=python", *options, image, "-c", code)


def test_settings_reach_the_client(compose: Compose) -> None:
    response = requests.post(f"{compose.url}/predict", json=BODY, timeout=10)
    assert "Server-Timing" in response.headers  # the fixture sets CLIENT_SERVER_TIMING


def test_client_reads_api_keys_private_to_their_owner(compose: Compose, tmp_path: Path) -> None:
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


def test_client_stays_alive_without_a_server_and_compose_stops_without_sigkill(
    compose: Compose,
) -> None:
    """This must stay the last test that uses `compose`."""
    compose("kill", "-s", "SIGKILL", "serving")
    wait_for(lambda: requests.get(f"{compose.url}/readyz", timeout=5).status_code == 503, "down")
    (kind, *health_check) = inspect(compose, "client")["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    compose("exec", "-T", "client", *health_check)
    started = time.monotonic()
    compose("down")
    assert time.monotonic() - started < 20  # SIGKILL would follow after 30 s


def test_compose_passes_every_client_setting() -> None:
    """Except those that Compose itself sets."""
    fixed = {"server": "serving:8500", "model": "churn", "host": "0.0.0.0", "port": ""}
    variables = {f"CLIENT_{name.upper()}": f"value of {name}" for name in Settings.model_fields}
    config = yaml.safe_load(docker("compose", "-f", FILES[0], "config", MODEL="churn", **variables))
    environment = config["services"]["client"]["environment"]
    for name in Settings.model_fields:
        expected = fixed.get(name, f"value of {name}")
        assert environment.get(f"CLIENT_{name.upper()}", "") == expected


def test_compose_file_runs_the_tensorflow_serving_image() -> None:
    config = yaml.safe_load(docker("compose", "-f", FILES[0], "config"))
    serving = config["services"]["serving"]
    assert serving["image"] == "tensorflow/serving:2.20.0"
    # The image's own entrypoint, a shell script, swallows SIGTERM.
    assert serving["entrypoint"] == ["tensorflow_model_server"]
    assert serving["init"] is True
    assert "--grpc_max_threads=64" in serving["command"]
    health_check = " ".join(serving["healthcheck"]["test"])
    assert "bash" in health_check
    assert not {"curl", "wget", "python"} & set(health_check.replace("/", " ").split())
    assert {name: d["condition"] for name, d in serving["depends_on"].items()} == {
        "training": "service_completed_successfully"
    }
    other = yaml.safe_load(docker("compose", "-f", FILES[0], "config", TF_SERVING_VERSION="2.19.1"))
    assert other["services"]["serving"]["image"] == "tensorflow/serving:2.19.1"


def test_embedded_file_overrides_only_build_image_and_environment() -> None:
    override = yaml.safe_load((ROOT / FILES[1]).read_text())
    assert list(override) == ["services"]
    assert {name: set(keys) for name, keys in override["services"].items()} == {
        "serving": {"build", "image", "environment"}
    }


@pytest.mark.usefixtures("images")
def test_make_run_manages_the_server_container(models: Path, starter: Starter) -> None:
    port = str(free_port())
    settings = {"SERVER": "docker", "ROLLOUT": "auto", "TF_SERVING_IMAGE": SERVING_IMAGE}
    running, url = make_run(starter, models, SERVING_PORT=port, **settings)
    name = f"logreg-serving-{port}"
    assert name in docker("ps", "--format={{.Names}}").split()
    assert requests.post(f"{url}/predict", json=BODY, timeout=10).status_code == 200

    docker("kill", name)
    wait_for(lambda: requests.get(f"{url}/readyz", timeout=5).status_code == 503, "not ready", 10)
    wait_for(lambda: requests.get(f"{url}/readyz", timeout=5).ok, "a new container serves", 60)

    # The container reads the controller's model config; a new version gets no traffic yet.
    shutil.copytree(models / "breast_cancer" / "1", models / ".2")
    (models / ".2").rename(models / "breast_cancer" / "2")
    rollout = models / ".rollout" / "breast_cancer.json"
    wait_for(lambda: json.loads(rollout.read_text())["phase"] == "shadow", "the shadow phase", 60)
    assert requests.post(f"{url}/predict", json=BODY, timeout=10).json()["version"] == 1

    assert stop_with_ctrl_c(running) < STOP_SECONDS
    assert name not in docker("ps", "-a", "--format={{.Names}}").split()


@pytest.mark.usefixtures("images")
def test_container_left_over_by_a_killed_run_is_replaced(models: Path, starter: Starter) -> None:
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
def test_missing_engine_or_image_prints_a_one_line_error(
    models: Path, starter: Starter, environment: dict[str, str], message: str
) -> None:
    running = run_container(starter, models, free_port(), **environment)
    assert running.process.wait(60) == 1
    assert message in running.output()
    assert "Traceback" not in running.output()


@pytest.mark.usefixtures("images")
def test_taken_port_prints_a_one_line_error(models: Path, starter: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = run_container(starter, models, listener.getsockname()[1])
        assert running.process.wait(60) == 1
    assert "Error: cannot run the container:" in running.output()
    assert "address already in use" in running.output()
    assert "Traceback" not in running.output()


@pytest.mark.usefixtures("images")
def test_fit_in_two_containers_matches_a_single_process(tmp_path: Path) -> None:
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
        published = tmp_path / "published"
        docker("cp", f"{containers[0]}:/models/customers/1", str(published))
    finally:
        compose.remove()
    assert json.loads((published / "manifest.json").read_text())["rows"]["read"] == 4000
    single = job.fit(open_source(str(data)), Choice("churned"), FitSettings(optimizer="newton"))
    assert theta_of(published) == pytest.approx(single.fit.theta, abs=1e-5)
