"""Stopping a model server."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import Starter
from tests.serving.conftest import QUICK, RunningServer, Serve, model_flags
from tests.support import forked
from tests.support.affine import publish
from tests.support.caller import Caller, y_and_version
from tests.support.processes import free_port, wait_for

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def check_calls_are_answered(server: RunningServer) -> None:
    """Stop a server that has received calls; all of them must be answered."""
    calls = [server.submit_x([float(row)]) for row in range(6)]
    assert server.running.stop(signal.SIGTERM) == 0
    answers = [y_and_version(call.result()) for call in calls]
    assert answers == [([10.0 * row + 1], 1) for row in range(6)]


def test_running_and_queued_requests_are_answered(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1, seconds=0.5)
    server = serve(*model_flags(base_path), "--grpc_max_threads=2")
    check_calls_are_answered(server)


def test_requests_waiting_for_a_batch_are_answered(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    parameters = base_path.parent / "batching.config"
    parameters.write_text("batch_timeout_micros { value: 1500000 } max_batch_size { value: 100 }")
    server = serve(
        *model_flags(base_path), "--enable_batching", f"--batching_parameters_file={parameters}"
    )
    check_calls_are_answered(server)


def test_stopping_server_reports_not_serving_and_rejects_calls(
    base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1, seconds=2)
    server = serve(*model_flags(base_path))
    stub = health_pb2_grpc.HealthStub(server.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="m"), timeout=30)
    next(watch)
    slow = server.submit_x()
    server.running.process.send_signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    assert not list(watch)  # the watch ends at once
    with Caller(server.running.address) as late, pytest.raises(grpc.RpcError) as error:
        late.predict_x()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not slow.done()
    assert y_and_version(slow.result()) == ([11.0], 1)
    assert server.running.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_stops_at_once(base_path: Path, serve: Serve, number: signal.Signals) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    started = time.monotonic()
    assert server.running.stop(number) == 0
    assert time.monotonic() - started < 5  # less than the 10 s allowed for draining
    assert "Traceback" not in server.running.output()


def test_signal_during_connection_handling_is_not_lost(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    rest_port = free_port()
    for _ in range(5):
        running = starter.model_server(*model_flags(base_path), f"--rest_api_port={rest_port}")
        time.sleep(0.5)
        host, _, grpc_port = running.address.rpartition(":")
        for open_port in (int(grpc_port), rest_port):
            socket.create_connection((host, open_port)).close()
        assert running.stop(signal.SIGTERM, timeout=5) == 0


def test_server_waiting_for_a_first_version_stops_at_once(
    base_path: Path, starter: Starter
) -> None:
    running = forked.start(starter.folder / "log", *QUICK, *model_flags(base_path))
    starter.running.append(running)
    wait_for(lambda: "no versions found under base path" in running.output(), "the server waits")
    assert running.stop(signal.SIGTERM, timeout=5) == 0
    assert "Running gRPC" not in running.output()


def test_server_stops_while_a_load_waits_for_its_retry(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--load_retry_interval_micros=60000000")
    (base_path / "2").mkdir()
    wait_for(lambda: "attempt 1 of 2" in server.running.output(), "the first attempt")
    assert server.running.stop(signal.SIGTERM, timeout=5) == 0
