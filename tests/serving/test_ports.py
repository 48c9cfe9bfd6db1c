"""What is offered on the ports: TLS, a UNIX socket, metrics, reflection, flags that say so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client import ClientError, ModelServer
from client.channel import Tls
from tests.affine import publish
from tests.conftest import Starter
from tests.processes import ROOT, free_port, start, wait_for

ROW = {"x": np.array([1.0], np.float32)}


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ports") / "m"
    publish(path, 1)
    return path


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's and a client's certificate of it."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    openssl(*new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", folder=folder)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", folder=folder)
        openssl(
            "x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey",
            "ca.key", "-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem", folder=folder,
        )  # fmt: skip
    return folder


def ssl_config(folder: Path, certificates: Path, *, verify: bool) -> Path:
    def text(name: str) -> str:
        return (certificates / name).read_text().replace("\n", "\\n")

    file = folder / "ssl.config"
    file.write_text(
        f'server_key: "{text("server.key")}" server_cert: "{text("server.pem")}" '
        f'custom_ca: "{text("ca.pem")}" client_verify: {str(verify).lower()}'
    )
    return file


def test_tls_and_a_caller_that_does_not_know_the_authority(
    base_path: Path, certificates: Path, starter: Starter, tmp_path: Path
) -> None:
    config = ssl_config(tmp_path, certificates, verify=False)
    server = starter.model_server(
        "--model_name=m", f"--model_base_path={base_path}", f"--ssl_config_file={config}"
    )
    with ModelServer(server.address, tls=Tls(certificates / "ca.pem", None, None)) as known:
        assert known.predict("m", ROW).version == 1
    with (
        ModelServer(server.address, tls=Tls(None, None, None), timeout=1) as stranger,
        pytest.raises(ClientError),
    ):
        stranger.predict("m", ROW)
    with ModelServer(server.address, timeout=1) as plain, pytest.raises(ClientError):
        plain.predict("m", ROW)


def test_mutual_tls_refuses_who_has_no_certificate(
    base_path: Path, certificates: Path, starter: Starter, tmp_path: Path
) -> None:
    config = ssl_config(tmp_path, certificates, verify=True)
    server = starter.model_server(
        "--model_name=m", f"--model_base_path={base_path}", f"--ssl_config_file={config}"
    )
    own = (certificates / "client.pem", certificates / "client.key")
    with ModelServer(server.address, tls=Tls(certificates / "ca.pem", *own)) as known:
        assert known.predict("m", ROW).version == 1
    with (
        ModelServer(server.address, tls=Tls(certificates / "ca.pem", None, None), timeout=1) as no,
        pytest.raises(ClientError),
    ):
        no.predict("m", ROW)


def test_a_unix_socket_alone(base_path: Path, tmp_path: Path, starter: Starter) -> None:
    socket = tmp_path / "grpc.sock"
    running = starter.command(
        [sys.executable, "-m", "serving", "--port=0", f"--grpc_socket_path={socket}",
         "--model_name=m", f"--model_base_path={base_path}",
         "--grpc_channel_arguments=grpc.max_connection_age_ms=100000,grpc.x=y",
         "--grpc_max_threads=3"]
    )  # fmt: skip
    wait_for(lambda: "Running gRPC ModelServer" in running.output(), "the server listens")
    with ModelServer(f"unix:{socket}") as server:
        assert server.predict("m", ROW).version == 1


def test_metrics_have_the_original_s_names_and_count_right(
    base_path: Path, tmp_path: Path, starter: Starter
) -> None:
    config = tmp_path / "monitoring.config"
    config.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    port = free_port()
    running = starter.model_server(
        "--model_name=m",
        f"--model_base_path={base_path}",
        f"--monitoring_config_file={config}",
        f"--rest_api_port={port}",
    )
    with ModelServer(running.address) as server:
        for _ in range(3):
            server.predict("m", ROW)
        for name in ("nosuch", "other"):
            with pytest.raises(ClientError):
                server.predict(name, ROW)
    page = requests.get(f"http://127.0.0.1:{port}/monitoring/prometheus/metrics", timeout=5).text
    assert "# TYPE :tensorflow:serving:request_count counter" in page
    assert "_total" not in page
    labels = 'API="Predict",model_name="m",signature_name="serving_default",status="OK",version="1"'
    assert value(page, ":tensorflow:serving:request_count", labels) == 3
    assert (
        value(page, ":tensorflow:serving:request_latency_count", 'API="Predict",entrypoint="GRPC"')
        == 3
    )
    assert "nosuch" not in page
    path = f'model_path="{base_path}/1",status="success"'
    assert value(page, ":tensorflow:cc:saved_model:load_attempt_count", path) == 1
    assert 'model_version_state{model_name="m",state="AVAILABLE",version="1"} 1.0' in page


def value(page: str, name: str, labels: str) -> float:
    """Return the value of the first sample whose labels include these, in any order."""
    for line in page.splitlines():
        match = re.fullmatch(r"([\w:]+)\{(.*)\} (\S+)", line)
        if match and match[1] == name and set(labels.split(",")) <= set(match[2].split(",")):
            return float(match[3])
    raise AssertionError(f"{name}{{{labels}}} is not in\n{page}")


def test_reflection_tells_of_the_services(base_path: Path, starter: Starter) -> None:
    server = starter.model_server("--model_name=m", f"--model_base_path={base_path}")
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="tensorflow.serving.ModelService"
            ),
        ]
        listed, file = stub.ServerReflectionInfo(iter(asked))
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {
            "tensorflow.serving.PredictionService",
            "tensorflow.serving.ModelService",
            "grpc.health.v1.Health",
        }
        assert file.file_descriptor_response.file_descriptor_proto
        # Streams that are held open keep nobody else from being answered.
        held = [stub.ServerReflectionInfo(_never()) for _ in range(20)]
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service="m"), timeout=5).status == 1
        with ModelServer(server.address) as client:
            assert client.predict("m", ROW).version == 1
        for stream in held:
            stream.cancel()


def _never() -> Any:
    import threading

    threading.Event().wait(30)
    yield from ()


@pytest.mark.parametrize(
    ("form", "accepted"),
    [
        ("--enable_profiler", False),
        ("--enable_profiler=true", False),
        ("--enable_profiler=false", True),
    ],
)
def test_a_flag_that_is_never_honoured_may_be_off(
    form: str, accepted: bool, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "serving", form, "--model_config_file=/nosuch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert ("no profiler service" in done.stderr) is not accepted
    assert ("/nosuch" in done.stderr) is accepted


def test_versions_are_told_without_a_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.match(r"TensorFlow ModelServer: .*\nTensorFlow Library: 2\.\d+", done.stdout)


def test_the_ports_open_although_a_first_model_is_still_being_tried(
    base_path: Path, tmp_path: Path, starter: Starter
) -> None:
    (tmp_path / "bad" / "1").mkdir(parents=True)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        'model_platform: "tensorflow" } '
        f'config {{ name: "bad" base_path: "{tmp_path / "bad"}" model_platform: "tensorflow" }} }}'
    )
    running = start(
        [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", "--port=0",
         f"--model_config_file={config}", "--max_num_load_retries=100",
         "--load_retry_interval_micros=500000"],
        tmp_path / "log",
    )  # fmt: skip
    starter.running.append(running)
    address = re.compile(r"Running gRPC ModelServer at (\S+) ")
    wait_for(lambda: address.search(running.output()), "the port is open")
    match = address.search(running.output())
    assert match is not None
    with ModelServer(match[1]) as server:
        assert server.predict("m", ROW).version == 1
        assert server.status("bad")[0].state == 20  # LOADING
        publish(tmp_path / "bad", 2)
