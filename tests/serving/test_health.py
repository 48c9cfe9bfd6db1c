"""Health checks and reflection, which load balancers, Kubernetes and grpcurl use."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from serving.model_servers.health import HealthServicer
from tests.serving.conftest import Serve, model_flags
from tests.support.affine import publish
from tests.support.caller import Caller, model_config, models_config, raises_rpc_error
from tests.support.processes import wait_for

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def check(server: Caller, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


@pytest.fixture
def two_models(tmp_path: Path, serve: Serve) -> Caller:
    for name in ("a", "b"):
        publish(tmp_path / name, 1)
    config = tmp_path / "models.config"
    config.write_text(models_config(*(model_config(tmp_path / name) for name in ("a", "b"))))
    return serve(f"--model_config_file={config}")


def test_health_is_reported_per_model_and_for_the_server(
    tmp_path: Path, two_models: Caller
) -> None:
    assert [check(two_models, name) for name in ("", "a", "b")] == [SERVING] * 3
    shutil.rmtree(tmp_path / "b" / "1")
    wait_for(lambda: check(two_models, "b") == NOT_SERVING, "b has no version")
    assert [check(two_models, name) for name in ("", "a")] == [NOT_SERVING, SERVING]
    publish(tmp_path / "b", 2)
    wait_for(lambda: check(two_models) == SERVING, "b is available again")
    with raises_rpc_error("NOT_FOUND"):
        check(two_models, "nosuch")


def test_removed_model_becomes_unknown(tmp_path: Path, two_models: Caller) -> None:
    stub = health_pb2_grpc.HealthStub(two_models.channel)
    watch: Iterator[Any] = stub.Watch(health_pb2.HealthCheckRequest(service="b"), timeout=30)
    assert next(watch).status == SERVING
    two_models.reload(models_config(model_config(tmp_path / "a")))
    assert next(watch).status == SERVICE_UNKNOWN
    with raises_rpc_error("NOT_FOUND", "unknown service 'b'"):
        check(two_models, "b")
    assert check(two_models) == SERVING


def test_server_is_healthy_once_a_model_without_versions_is_removed(
    tmp_path: Path, two_models: Caller
) -> None:
    shutil.rmtree(tmp_path / "b" / "1")
    wait_for(lambda: check(two_models) == NOT_SERVING, "b has no version")
    wait_for(lambda: two_models.has_ended(1, "b"), "b is unloaded")
    two_models.reload(models_config(model_config(tmp_path / "a")))
    assert check(two_models) == SERVING


def test_report_does_not_overwrite_a_later_one() -> None:
    servicer = HealthServicer()

    class Core:
        model_names = ("m",)

        def __init__(self, available: bool, on_check: Callable[[], None] = lambda: None) -> None:
            self.available = available
            self.on_check = on_check

        def is_available(self, name: str) -> bool:
            self.on_check()
            return self.available

    later: Any = Core(True)
    earlier: Any = Core(False, lambda: servicer.report(later))
    servicer.report(earlier)
    assert servicer.Check(health_pb2.HealthCheckRequest(service="m"), None).status == SERVING


def test_watch_started_after_shutdown_ends() -> None:
    servicer = HealthServicer()
    servicer.end()
    context: Any = SimpleNamespace(add_callback=lambda callback: True)
    sent: list[Any] = []
    servicer.Watch(health_pb2.HealthCheckRequest(), context, sent.append)
    wait_for(lambda: None in sent, "the watch ends")
    assert sent == [health_pb2.HealthCheckResponse(status=NOT_SERVING), None]


def test_services_report_health_under_their_short_names(two_models: Caller) -> None:
    assert [check(two_models, f"{kind}Service") for kind in ("Prediction", "Model")] == [
        SERVING
    ] * 2


def test_watch_receives_each_change(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    stub = health_pb2_grpc.HealthStub(server.channel)
    responses: Iterator[Any] = stub.Watch(health_pb2.HealthCheckRequest(service="m"), timeout=30)
    assert next(responses).status == SERVING
    shutil.rmtree(base_path / "1")
    assert next(responses).status == NOT_SERVING
    publish(base_path, 2)
    assert next(responses).status == SERVING


def test_health_is_reported_while_every_thread_is_busy(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1, seconds=0.7)
    server = serve(*model_flags(base_path), "--grpc_max_threads=2")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(server.predict_x) for _ in range(4)]
        assert check(server) == SERVING
        assert not any(call.done() for call in calls)


def test_many_watches_do_not_block_other_calls(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    stub = health_pb2_grpc.HealthStub(server.channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(20)]
    assert [next(watch).status for watch in watches] == [SERVING] * 20
    assert check(server) == SERVING
    assert server.predict_x() == ([11.0], 1)
    for watch in watches:
        watch.cancel()


def test_cancelled_watches_do_not_block_the_server(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    stub = health_pb2_grpc.HealthStub(server.channel)
    stop = threading.Event()

    def open_and_cancel() -> None:
        while not stop.wait(0.02):
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service="m")) for _ in range(10)]
            for watch in watches:
                next(watch)
            for watch in watches:
                watch.cancel()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(open_and_cancel) for _ in range(2)]
        for _ in range(5):
            shutil.rmtree(base_path / "1")
            wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
            publish(base_path, 1)
            wait_for(lambda: server.is_available(1), "version 1 is available again")
        stop.set()
        for future in futures:
            future.result(10)
    assert server.running.stop(timeout=5) == 0


def test_reflection_lists_the_services(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    database = ProtoReflectionDescriptorDatabase(server.channel)
    assert set(database.get_services()) == {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("tensorflow.serving.PredictionService")
    methods = {"Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"}
    assert methods <= set(service.methods_by_name)
    request = service.methods_by_name["Predict"].input_type
    assert set(request.fields_by_name) >= {"model_spec", "inputs", "output_filter"}
    service = pool.FindServiceByName("tensorflow.serving.ModelService")
    assert set(service.methods_by_name) == {"GetModelStatus", "HandleReloadConfigRequest"}


def test_open_reflection_streams_do_not_block_other_calls(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    with ThreadPoolExecutor() as pool:
        databases = [ProtoReflectionDescriptorDatabase(server.channel) for _ in range(20)]
        for database in databases:
            pool.submit(database.get_services)
        assert server.predict_x() == ([11.0], 1)
        assert check(server) == SERVING
