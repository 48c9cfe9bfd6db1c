"""Metrics have TensorFlow Serving's names, correct counts and a bounded number of series."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from tensorflow_serving.apis import regression_pb2

from serving.core.servable_harness import ServableHarness, State
from serving.model_servers.monitoring import Monitoring
from tests.contract.tf1_models import export, half_plus
from tests.serving.conftest import RunningServer, Serve, model_flags
from tests.support.affine import publish
from tests.support.caller import raises_rpc_error
from tests.support.processes import free_port, wait_for

SERIES = re.compile(r"^(?P<name>[:\w]+)(\{(?P<labels>.*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')
REQUESTS = ":tensorflow:serving:request_count"


class Metrics:
    """The parsed metrics of a server."""

    def __init__(self, server: RunningServer, port: int, path: str) -> None:
        self.server = server
        self._url = f"http://127.0.0.1:{port}{path}"

    def text(self) -> str:
        response = requests.get(self._url, timeout=5)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        return response.text

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the values of the series with this name and these labels."""
        values = []
        for line in self.text().splitlines():
            match = SERIES.match(line)
            if match and match["name"] == name:
                series_labels = dict(LABEL.findall(match["labels"] or ""))
                if labels.items() <= series_labels.items():
                    values.append(float(match["value"]))
        return values


@pytest.fixture
def metrics(base_path: Path, serve: Serve) -> Metrics:
    """The metrics of a server with version 1 of m."""
    publish(base_path, 1)
    config = base_path.parent / "monitoring.config"
    config.write_text('prometheus_config { enable: true path: "/the/metrics" }')
    port = free_port()
    server = serve(
        *model_flags(base_path), f"--rest_api_port={port}", f"--monitoring_config_file={config}"
    )
    return Metrics(server, port, "/the/metrics")


def test_metrics_have_tensorflow_servings_names_and_types(metrics: Metrics) -> None:
    metrics.server.predict_x()
    text = metrics.text()
    for name, kind in (
        (REQUESTS, "counter"),
        (":tensorflow:serving:request_latency", "histogram"),
        (":tensorflow:serving:runtime_latency", "histogram"),
        (":tensorflow:serving:model_warmup_latency", "histogram"),
        (":tensorflow:cc:saved_model:load_attempt_count", "counter"),
        (":tensorflow:cc:saved_model:load_latency", "counter"),
    ):
        assert f"# TYPE {name} {kind}\n" in text
    assert "_total" not in text
    assert "_created" not in text
    assert 'le="32.4"' in text


def test_requests_are_counted_by_label(metrics: Metrics) -> None:
    server = metrics.server
    for _ in range(3):
        server.predict_x()
    with raises_rpc_error("FAILED_PRECONDITION"):
        server.predict_x(signature="nosuch")
    with raises_rpc_error("NOT_FOUND"):
        server.predict_x(version=7)
    known = {"model_name": "m", "version": "1", "API": "Predict"}
    signature = {"signature_name": "serving_default"}
    assert metrics.values(REQUESTS, **known, **signature, status="OK") == [3]
    assert metrics.values(REQUESTS, **known, status="FAILED_PRECONDITION") == [1]
    assert metrics.values(REQUESTS, model_name="m", version="", status="NOT_FOUND") == [1]
    assert sum(metrics.values(REQUESTS)) == 5
    latencies = metrics.values(":tensorflow:serving:request_latency_count", **known)
    assert latencies == [3]  # failed requests have no latency
    assert metrics.values(":tensorflow:serving:runtime_latency_count", **known) == [3]


def test_concurrent_requests_are_all_counted(metrics: Metrics) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: metrics.server.predict_x(), range(400)))
    assert metrics.values(REQUESTS, status="OK") == [400]


def test_latencies_are_in_microseconds(base_path: Path, metrics: Metrics) -> None:
    publish(base_path, 2, seconds=0.5)
    wait_for(lambda: metrics.server.is_available(2), "version 2")
    metrics.server.predict_x()
    for name in ("request_latency", "runtime_latency"):
        (total,) = metrics.values(f":tensorflow:serving:{name}_sum", version="2")
        assert 500_000 < total < 3_000_000
        bucket = f":tensorflow:serving:{name}_bucket"
        counts = metrics.values(bucket, version="2")
        assert counts[0] == 0  # up to 10 microseconds
        assert counts[-1] == 1


def test_each_method_has_its_own_series(base_path: Path, metrics: Metrics) -> None:
    half = base_path.parent / "half"
    export(half, lambda: half_plus(2.0))
    half.rename(base_path / "2")
    wait_for(lambda: metrics.server.is_available(2), "version 2")
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "regress_x_to_y"
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1.0)
    metrics.server.prediction.Regress(request, timeout=10)
    labels = {"API": "Regress", "signature_name": "regress_x_to_y", "version": "2"}
    assert metrics.values(REQUESTS, **labels) == [1]


def test_loads_are_counted_by_outcome(base_path: Path, metrics: Metrics) -> None:
    (base_path / "2").mkdir()
    wait_for(lambda: metrics.server.has_ended(2), "version 2 has failed")
    attempts = ":tensorflow:cc:saved_model:load_attempt_count"
    assert metrics.values(attempts, model_path=str(base_path / "1"), status="success") == [1]
    assert metrics.values(attempts, model_path=str(base_path / "2"), status="fail") == [2]
    (microseconds,) = metrics.values(
        ":tensorflow:cc:saved_model:load_latency", model_path=str(base_path / "1")
    )
    assert 1000 < microseconds < 60e6
    assert metrics.values(":tensorflow:serving:model_warmup_latency_count") == []
    state = ":tensorflow:serving:model_version_state"
    assert metrics.values(state, model_name="m", version="1", state="AVAILABLE") == [1]
    assert metrics.values(state, model_name="m", version="2", state="FAILED") == [1]


def test_version_unloaded_during_a_scrape_is_not_reported_as_failed() -> None:
    class Ending(ServableHarness):
        reads = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "state":
                type(self).reads += 1
                return State.UNLOADING if self.reads == 1 else State.END
            return super().__getattribute__(name)

    monitoring = Monitoring()
    monitoring.states.record(Ending("m", 1, Path("1")))
    assert b"FAILED" not in monitoring.exposition()


def test_latencies_of_unloaded_versions_are_removed_after_a_last_scrape() -> None:
    def record() -> None:
        monitoring.record_request("Predict", "m", "1", "serving_default", "OK", 1.0)
        monitoring.record_run("m", 1, "Predict", 1.0)

    monitoring = Monitoring()
    for _ in range(2):
        harness = ServableHarness("m", 1, Path("1"), state=State.AVAILABLE)
        monitoring.states.record(harness)
        record()
        monitoring.exposition()
        harness.state = State.END
        record()  # a call that was in progress
        last, later = monitoring.exposition(), (monitoring.exposition(), monitoring.exposition())
        assert last.count(b'_latency_count{API="Predict",') == 2
        assert last.count(b"} 2.0\n") >= 4
        assert b"_latency_bucket" in later[0]
        assert b"_latency_bucket" not in later[1]
    assert monitoring.count("/tensorflow/serving/request_count") == 4  # counters never decrease


def test_unknown_names_add_no_series(metrics: Metrics) -> None:
    server = metrics.server
    for number in range(50):
        with raises_rpc_error("NOT_FOUND"):
            server.predict_x(model=f"made-up-{number}")
        with raises_rpc_error("FAILED_PRECONDITION"):
            server.predict_x(signature=f"made-up-{number}")
        with raises_rpc_error("INVALID_ARGUMENT"):
            server.predict_x(label=f"made-up-{number}")
        with raises_rpc_error("NOT_FOUND"):
            server.predict_x(version=1000 + number)
    text = metrics.text()
    assert "made-up" not in text
    assert '"1000"' not in text
    assert sum(metrics.values(REQUESTS)) == 200
    assert len(metrics.values(REQUESTS)) == 4


def test_unparsable_request_is_not_counted(metrics: Metrics) -> None:
    method: Any = metrics.server.channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict"
    )
    with pytest.raises(grpc.RpcError):
        method(b"\xff", timeout=5)
    assert metrics.values(REQUESTS) == []


def test_waiting_for_a_batch_counts_as_latency(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    config = base_path.parent / "monitoring.config"
    config.write_text("prometheus_config { enable: true }")
    parameters = base_path.parent / "batching.config"
    parameters.write_text("batch_timeout_micros { value: 300000 } max_batch_size { value: 100 }")
    port = free_port()
    server = serve(
        *model_flags(base_path), f"--rest_api_port={port}", f"--monitoring_config_file={config}",
        "--enable_batching", f"--batching_parameters_file={parameters}",
    )  # fmt: skip
    server.predict_x()
    metrics = Metrics(server, port, "/monitoring/prometheus/metrics")
    (total,) = metrics.values(":tensorflow:serving:request_latency_sum", version="1")
    assert 300_000 < total < 3_000_000


def test_metrics_are_disabled_without_a_config(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    port = free_port()
    serve(*model_flags(base_path), f"--rest_api_port={port}")
    path = "/monitoring/prometheus/metrics"
    assert requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 404
