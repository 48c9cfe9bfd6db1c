"""Traces reach a collector and the model server; timings reach the caller."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from client.observability.request_context import RequestContext
from client.observability.tracing import Tracing
from client.serving.protos import PredictRequest
from tests.conftest import Starter
from tests.support.processes import Running, wait_for
from tests.support.tables import breast_cancer

BODY = json.dumps({"instances": [breast_cancer().features[0].tolist()]}).encode()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
NOT_SAMPLED = f"00-{TRACE}-{PARENT}-00"
PREDICT = "tensorflow.serving.PredictionService/Predict"


class Collector:
    """Receives spans over OTLP/HTTP.

    Attributes:
        url: the endpoint to export to.
        spans: the spans received.
        services: names of the services that sent them.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector.receive(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def receive(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            labels = {item.key: item.value.string_value for item in resource.resource.attributes}
            self.services.add(labels["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Proxy(grpc.GenericRpcHandler):
    """A gRPC proxy that records `traceparent` metadata and can hold calls.

    Attributes:
        address: the address to connect to.
        traces: the method and `traceparent` of each call; None if it had none.
    """

    def __init__(self, server: str) -> None:
        self.traces: list[tuple[str, str | None]] = []
        self.open = threading.Event()
        self.open.set()
        self._channel = grpc.insecure_channel(server)
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)
        call: Any = self._channel.unary_unary(details.method)

        def forward(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.traces.append((details.method, metadata.get("traceparent")))
            self.open.wait(20)
            try:
                answer: bytes = call(request, timeout=20)
            except grpc.RpcError as error:
                context.abort(error.code(), str(error.details()))
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)

    def predictions(self) -> list[str | None]:
        return [trace for method, trace in self.traces if method == f"/{PREDICT}"]

    def close(self) -> None:
        self._server.stop(None).wait()
        self._channel.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def proxy(model_server: str) -> Iterator[Proxy]:
    proxy = Proxy(model_server)
    yield proxy
    proxy.open.set()
    proxy.close()


def post(client: Running, path: str = "/predict", **headers: str) -> requests.Response:
    return requests.post(f"{client.address}{path}", BODY, headers=headers, timeout=30)


def warm(client: Running, proxy: Proxy) -> None:
    """Make the client load the schema, in an unsampled trace."""
    assert post(client, traceparent=NOT_SAMPLED).status_code == 200
    proxy.traces.clear()


def attributes(span: Span) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in span.attributes
    }


def test_spans_continue_the_callers_trace_and_are_sent_on_stop(
    proxy: Proxy, collector: Collector, starter: Starter
) -> None:
    client = starter.client(proxy.address, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    warm(client, proxy)
    assert post(client, traceparent=SAMPLED).status_code == 200
    assert post(client, "/v1/models/none:predict", traceparent=SAMPLED).status_code == 404
    assert client.stop() == 0
    assert "Traceback" not in client.output()
    assert collector.services == {"client"}
    [request] = collector.named("POST /predict")
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert request.kind == Span.SPAN_KIND_SERVER
    expected = {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "url.scheme": "http",
        "model.name": "breast_cancer",
        "model.version": 1,
    }
    assert attributes(request) == expected
    [call] = collector.named(PREDICT)
    assert call.trace_id.hex() == TRACE
    assert call.parent_span_id == request.span_id
    assert call.kind == Span.SPAN_KIND_CLIENT
    assert attributes(call) == {
        "rpc.system": "grpc",
        "rpc.service": "tensorflow.serving.PredictionService",
        "rpc.method": "Predict",
        "rpc.grpc.status_code": 0,
        "server.address": proxy.address,
        "model.name": "breast_cancer",
        "model.version": 1,
    }
    assert proxy.predictions() == [f"00-{TRACE}-{call.span_id.hex()}-01"]
    [failed] = collector.named("POST /v1/models/<model>:predict")
    failed_attributes = attributes(failed)
    assert failed_attributes["http.response.status_code"] == 404
    assert failed_attributes["model.name"] == "none"
    failed_calls = [span for span in collector.spans if span.parent_span_id == failed.span_id]
    assert {attributes(span)["rpc.grpc.status_code"] for span in failed_calls} == {5}
    assert {span.status.code for span in failed_calls} == {2}


def test_request_may_end_before_its_call(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing = Tracing()
    request = tracing.begin("POST", "/predict", "/predict", {})
    call = tracing.begin_call("Predict", "localhost:8500", [RequestContext(request)])
    tracing.end(request, 504)
    call.end(grpc.StatusCode.OK, PredictRequest(), None)
    tracing.close()
    assert not caplog.messages
    assert {span.name for span in collector.spans} == {"POST /predict", PREDICT}


def test_unsampled_request_is_not_exported(
    proxy: Proxy, collector: Collector, starter: Starter
) -> None:
    client = starter.client(proxy.address, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    warm(client, proxy)
    assert post(client, traceparent=NOT_SAMPLED).status_code == 200
    assert post(client, traceparent="nonsense").status_code == 200
    assert client.stop() == 0
    first, second = proxy.predictions()
    assert first is not None
    assert first.startswith(f"00-{TRACE}-")
    assert first.endswith("-00")
    [own] = collector.named("POST /predict")
    assert second is not None
    assert second.startswith(f"00-{own.trace_id.hex()}-")
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


def test_shared_call_belongs_to_the_first_request_and_links_to_the_others(
    proxy: Proxy, collector: Collector, starter: Starter
) -> None:
    client = starter.client(
        proxy.address, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces"
    )
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 6)]
    warm(client, proxy)
    proxy.open.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(post, client, traceparent=traces[0])]
        wait_for(lambda: len(proxy.predictions()) == 1, "the first is in flight", 10)
        futures += [pool.submit(post, client, traceparent=trace) for trace in traces[1:]]
        wait_for(lambda: in_flight(client) == 6, "the others wait", 10)
        proxy.open.set()
        wait(futures)
    assert {future.result().status_code for future in futures} == {200}
    assert client.stop() == 0
    alone, shared = collector.named(PREDICT)
    assert int.from_bytes(alone.trace_id, "big") == 1
    assert not alone.links
    spans = {span.span_id: span for span in collector.named("POST /predict")}
    linked = [spans[shared.parent_span_id], *(spans[link.span_id] for link in shared.links)]
    assert sorted(int.from_bytes(span.trace_id, "big") for span in linked) == [2, 3, 4, 5]
    assert {attributes(span)["model.version"] for span in linked} == {1}
    assert shared.trace_id == linked[0].trace_id
    assert len(proxy.predictions()) == 2


def in_flight(client: Running) -> float:
    text = requests.get(f"{client.address}/metrics", timeout=5).text
    match = re.search(r"^client_http_requests_in_flight (.+)$", text, re.M)
    return float(match[1]) if match else 0


def test_table_has_one_span_until_its_last_row_is_sent(
    model_server: str, collector: Collector, starter: Starter
) -> None:
    client = starter.client(
        model_server, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="shop"
    )
    row = json.dumps(breast_cancer().features[0].tolist())
    columns = json.dumps(dict(zip(breast_cancer().columns, json.loads(row), strict=True)))
    response = requests.post(
        f"{client.address}/predict",
        f"{columns}\n" * 5000,
        headers={"Content-Type": "application/x-ndjson", "traceparent": SAMPLED},
        timeout=30,
    )
    assert len(response.text.splitlines()) == 5000
    assert client.stop() == 0
    assert collector.services == {"shop"}
    [span] = collector.named("POST /predict")
    assert attributes(span)["http.response.status_code"] == 200
    calls = collector.named(PREDICT)
    assert len(calls) > 1
    assert {call.parent_span_id for call in calls} == {span.span_id}
    assert max(call.end_time_unix_nano for call in calls) <= span.end_time_unix_nano


@pytest.mark.parametrize("fault", ["refuses", "stalls"])
def test_unreachable_collector_fails_no_request(
    model_server: str, starter: Starter, fault: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if fault == "refuses":
            listener.close()
        client = starter.client(
            model_server,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        started = time.monotonic()
        for _ in range(50):
            assert post(client, traceparent=SAMPLED).status_code == 200
        assert time.monotonic() - started < 5
        started = time.monotonic()
        assert client.stop() == 0
        assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("environment", "warnings"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_SDK_DISABLED": "true"}, []),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ["zipkin over http/protobuf"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp over grpc"]),
    ],
)
def test_disabled_tracing_sends_no_trace_to_the_server(
    proxy: Proxy,
    collector: Collector,
    starter: Starter,
    environment: dict[str, Any],
    warnings: list[str],
) -> None:
    endpoint: dict[str, Any] = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url} if environment else {}
    client = starter.client(proxy.address, **endpoint, **environment)
    warm(client, proxy)
    response = post(client, traceparent=SAMPLED)
    assert response.status_code == 200
    assert "Server-Timing" not in response.headers
    assert client.stop() == 0
    assert proxy.predictions() == [None]
    assert not collector.spans
    assert re.findall(r"no traces: (\S+ over \S+)", client.output()) == warnings
    assert client.output().count("no traces") == len(warnings)


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_opentelemetry_is_imported_only_for_traces(endpoint: str) -> None:
    program = (
        "import os, sys\n"
        f"os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = {endpoint!r}\n"
        "import client.http.server, client.observability.tracing\n"
        "client.observability.tracing.start()\n"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == f"{bool(endpoint)}\n", result.stderr


TIMING = re.compile(r"total;dur=([\d.]+), queue;dur=([\d.]+), server;dur=([\d.]+)")


@pytest.mark.parametrize(
    "path",
    ["/predict", "/explain", "/v1/models/breast_cancer:predict", "/v2/models/breast_cancer/infer"],
)
def test_responses_have_server_timing(proxy: Proxy, starter: Starter, path: str) -> None:
    client = starter.client(proxy.address, CLIENT_SERVER_TIMING="true")
    row = breast_cancer().features[:1]
    body: Any = {"instances": row.tolist()}
    if "v2" in path:
        data = {"name": "features", "shape": [1, 30], "datatype": "FP32", "data": row.tolist()}
        body = {"inputs": [data], "parameters": {"signature_name": "dense"}}
    url = f"{client.address}{path}"
    assert requests.post(url, json=body, timeout=30).status_code == 200
    proxy.traces.clear()
    proxy.open.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(requests.post, url, json=body, timeout=30)
        wait_for(proxy.predictions, "the call is in flight", 10)
        time.sleep(0.25)
        proxy.open.set()
    response = call.result()
    assert response.status_code == 200, response.text
    assert response.headers["X-Model-Version"] == "1"
    total, queue, server = parse_timing(response)
    assert total >= server > 200
    assert queue < 100


def parse_timing(response: requests.Response) -> tuple[float, float, float]:
    match = TIMING.fullmatch(response.headers["Server-Timing"])
    assert match is not None, response.headers
    return float(match[1]), float(match[2]), float(match[3])


def test_server_timing_separates_the_queue_and_covers_errors(
    proxy: Proxy, starter: Starter
) -> None:
    client = starter.client(proxy.address, CLIENT_SERVER_TIMING="true")
    warm(client, proxy)
    proxy.open.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, client)
        wait_for(lambda: len(proxy.predictions()) == 1, "the first is in flight", 10)
        second = pool.submit(post, client)
        wait_for(lambda: in_flight(client) == 3, "the second waits", 10)
        time.sleep(0.3)
        proxy.open.set()
        total, queue, server = parse_timing(second.result())
        assert parse_timing(first.result())[2] > 250
    assert queue > 250
    assert total >= queue + server
    rejected = requests.post(f"{client.address}/predict", b"{", timeout=5)
    assert rejected.status_code == 400
    assert parse_timing(rejected)[0] > 0
