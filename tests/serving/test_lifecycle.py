"""Versions that come, go and fail under a running model server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import ClientError, ModelServer
from client.model_server import Target
from tests.affine import SLOW, publish
from tests.conftest import Starter
from tests.processes import ROOT, free_port, wait_for

ROW = {"x": np.array([1.0], np.float32)}
MODEL_FLAGS = (
    "--model_name=m",
    "--file_system_poll_wait_seconds=0.05",
    "--max_num_load_retries=1",
    "--load_retry_interval_micros=10000",
)


def states(server: ModelServer) -> dict[int, int]:
    try:
        return {v.version: v.state for v in server.status("m")}
    except ClientError:
        return {}


def is_available(server: ModelServer, version: int) -> bool:
    return states(server).get(version) == 30


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    path = tmp_path / "m"
    path.mkdir()
    return path


def test_a_new_version_replaces_the_old_without_a_gap(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    answers: list[tuple[float, int]] = []
    stop = threading.Event()
    with ModelServer(running.address) as server:
        wait_for(lambda: is_available(server, 1), "version 1")

        def ask() -> None:
            while not stop.is_set():
                reply = server.predict("m", ROW)
                answers.append((float(reply.outputs["y"][0]), reply.version))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        publish(base_path, 2)
        wait_for(lambda: is_available(server, 2), "version 2")
        wait_for(lambda: states(server)[1] == 50, "version 1 is unloaded")
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
    assert {version for _, version in answers} == {1, 2}
    assert all(value == 10 + version for value, version in answers)


def test_a_request_ends_on_the_version_it_began_on(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1, seconds=SLOW)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    with ModelServer(running.address, timeout=60) as server:
        wait_for(lambda: is_available(server, 1), "version 1")
        replies: list[int] = []
        slow = threading.Thread(target=lambda: replies.append(server.predict("m", ROW).version))
        slow.start()
        time.sleep(0.3)
        publish(base_path, 2)
        wait_for(lambda: is_available(server, 2), "version 2 while the request runs")
        assert slow.is_alive()
        assert states(server)[1] == 40  # UNLOADING, not END, as long as the request runs
        assert server.predict("m", ROW).version == 2
        slow.join()
        assert replies == [1]
        wait_for(lambda: states(server)[1] == 50, "version 1 is unloaded")


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    base_path: Path, starter: Starter
) -> None:
    publish(base_path, 1)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    with ModelServer(running.address) as server:
        wait_for(lambda: is_available(server, 1), "version 1")
        (base_path / "2").mkdir()
        (base_path / "3").mkdir()
        (base_path / "3" / "saved_model.pb").write_bytes(b"garbage")
        wait_for(lambda: states(server).get(3) == 50, "version 3 has failed")
        assert server.predict("m", ROW).version == 1
        error = server.status(Target("m", 3))[0].status
        assert error.error_code == 15  # DATA_LOSS
        assert "saved_model.pb" in error.error_message
        publish(base_path, 4)
        wait_for(lambda: is_available(server, 4), "version 4")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can leave its rights to read behind")
def test_a_version_that_cannot_be_read_does_not_end_the_watching(
    base_path: Path, starter: Starter
) -> None:
    publish(base_path, 1)
    port = free_port()
    starter.command(
        [
            "setpriv", "--bounding-set=-dac_override,-dac_read_search",
            sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}",
            *MODEL_FLAGS, f"--model_base_path={base_path}",
        ]
    )  # fmt: skip
    with ModelServer(f"127.0.0.1:{port}") as server:
        wait_for(lambda: is_available(server, 1), "version 1")
        closed = base_path.parent / "closed"
        closed.mkdir(mode=0o700)
        os.chown(closed, 65534, 65534)
        closed.rename(base_path / "2")
        wait_for(lambda: states(server).get(2) == 50, "version 2 has failed")
        assert "Permission denied" in server.status(Target("m", 2))[0].status.error_message
        publish(base_path, 3)
        wait_for(lambda: is_available(server, 3), "version 3")


def test_a_rollback_by_removing_the_newest_version(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    publish(base_path, 2)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    with ModelServer(running.address) as server:
        wait_for(lambda: is_available(server, 2), "version 2")
        shutil.rmtree(base_path / "2")
        wait_for(lambda: is_available(server, 1), "version 1")
        wait_for(lambda: states(server)[2] == 50, "version 2 is unloaded")
        assert server.predict("m", ROW).version == 1


def test_health_is_serving_only_while_a_version_is_available(
    base_path: Path, starter: Starter
) -> None:
    publish(base_path, 1)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    assert health(running.address) == health(running.address, "m") == 1  # SERVING
    assert health(running.address, "PredictionService") == 1
    shutil.rmtree(base_path / "1")
    wait_for(lambda: health(running.address) == 2, "NOT_SERVING again")
    with ModelServer(running.address) as server, pytest.raises(ClientError) as error:
        server.predict("m", ROW)
    assert error.value.status == 404


def test_labels_and_policies_of_a_config_file(
    base_path: Path, tmp_path: Path, starter: Starter
) -> None:
    publish(base_path, 1)
    publish(base_path, 2)
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{
          name: "m" base_path: "{base_path}" model_platform: "tensorflow"
          model_version_policy {{ all {{}} }}
          version_labels {{ key: "stable" value: 1 }}
        }} }}"""
    )
    running = starter.model_server(
        f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models"
    )
    with ModelServer(running.address) as server:
        wait_for(lambda: is_available(server, 1) and is_available(server, 2), "both versions")
        assert server.predict(Target("m", label="stable"), ROW).version == 1
        assert server.predict("m", ROW).version == 2
        with pytest.raises(ClientError, match="Unrecognized servable version label: nosuch"):
            server.predict(Target("m", label="nosuch"), ROW)


def test_sigterm_lets_the_request_under_way_end_and_exits_0(
    base_path: Path, starter: Starter
) -> None:
    publish(base_path, 1, seconds=SLOW)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    with ModelServer(running.address, timeout=60) as server:
        wait_for(lambda: is_available(server, 1), "version 1")
        replies: list[float] = []

        def ask() -> None:
            replies.append(float(server.predict("m", ROW).outputs["y"][0]))

        slow = threading.Thread(target=ask)
        slow.start()
        time.sleep(0.3)
        assert not replies
        assert running.stop(signal.SIGTERM) == 0
        slow.join()
    assert replies == [11.0]


def test_an_idle_server_stops_at_once(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    started = time.monotonic()
    assert running.stop(signal.SIGINT) == 0
    assert time.monotonic() - started < 2


def test_the_rest_port_tells_the_state_and_nothing_else(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    port = free_port()
    starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}", f"--rest_api_port={port}")
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: "AVAILABLE" in requests.get(f"{url}/v1/models/m", timeout=5).text, "available")
    assert requests.get(f"{url}/v1/models/m/versions/1", timeout=5).json() == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert requests.get(f"{url}/v1/models/nosuch", timeout=5).status_code == 404
    elsewhere = requests.get(f"{url}/metrics", timeout=5)
    assert elsewhere.status_code == 404
    assert "the client" in elsewhere.json()["error"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected either --model_base_path or --model_config_file"),
        (["--model_base_path=x", "--model_config_file=y"], "expected either"),
        (["--model_base_path=x", "--enable_nothing"], "No such option '--enable_nothing'"),
        (["--model_base_path=x", "--use_alts_credentials"], "ALTS works between Google's own"),
        (["--model_base_path=x", "--batching_parameters_file=y"], "without --enable_batching"),
        (["--model_base_path=x", "--port=abc"], "'abc' is not a valid integer"),
        (["--model_config_file=nosuch"], "--model_config_file nosuch: "),
    ],
)
def test_a_flag_that_cannot_be_honoured_is_an_error(flags: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", *flags], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_clear_line(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    running = starter.model_server(*MODEL_FLAGS, f"--model_base_path={base_path}")
    port = running.address.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}",
         f"--model_base_path={base_path}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        done.stderr.strip() == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"
    )
