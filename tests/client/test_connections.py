"""Connections over raw sockets: pipelining, limits, slow readers, stops and restarts."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from client.http.connections import Connections
from client.http.gateway import Gateway
from client.http.messages import HttpRequest, HttpResponse
from client.observability.metrics import Metrics
from client.settings import Settings
from tests.client.test_operating import metric, workers
from tests.conftest import Starter
from tests.support.callers import Callers
from tests.support.processes import Running, wait_for
from tests.support.tables import breast_cancer

ROWS = breast_cancer().features
ROW = json.dumps({"instances": [ROWS[0].tolist()]}).encode()


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=20)


def post(path: str, body: bytes, *headers: str, host: str = "Host: x") -> bytes:
    lines = [f"POST {path} HTTP/1.1", host, f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(filter(None, lines)).encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def read_responses(connection: socket.socket, number: int) -> list[tuple[int, bytes]]:
    """Read responses, each with a length or chunked."""
    file = connection.makefile("rb")
    responses = []
    for _ in range(number):
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.lower().partition(b": ")
            headers[name] = value
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(file.readline(), 16):
                body += file.read(size)
                file.readline()
            file.readline()
        else:
            body = file.read(int(headers[b"content-length"]))
        responses.append((status, body))
    return responses


def test_pipelined_requests_are_answered_in_order(client_url: str) -> None:
    requests_ = [
        get("/livez"),
        post("/predict", ROW),
        get("/"),
        post("/predict", b"{"),
        get("/v2/health/live"),
        post("/v1/models/breast_cancer:predict", ROW),
        get("/static/page.css"),
        post("/predict", b",".join([b"1"] * 30) + b"\n", "Content-Type: text/csv"),
        get("/nosuch"),
    ]
    with connect(client_url) as connection:
        connection.sendall(b"".join(requests_) * 3)
        responses = read_responses(connection, 3 * len(requests_))
    statuses = [status for status, _ in responses]
    assert statuses == [200, 200, 200, 400, 200, 200, 200, 400, 404] * 3
    for start in (0, 9, 18):
        assert responses[start][1] == b'{"status":"alive"}\n'
        assert json.loads(responses[start + 1][1])["predictions"][0]["label"] == "malignant"
        assert b"<html" in responses[start + 2][1]
        assert json.loads(responses[start + 4][1]) == {"live": True}


def test_request_may_arrive_byte_by_byte(client_url: str) -> None:
    with connect(client_url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/predict", ROW)[:200]:
            connection.sendall(bytes([byte]))
        connection.sendall(post("/predict", ROW)[200:] + get("/livez"))
        assert [status for status, _ in read_responses(connection, 2)] == [200, 200]


@pytest.mark.parametrize("host", ["", "Host: a\r\nHost: b"])
def test_host_header_is_required_exactly_once(client_url: str, host: str) -> None:
    with connect(client_url) as connection:
        connection.sendall(post("/predict", ROW, host=host))
        ((status, body),) = read_responses(connection, 1)
    assert status == 400
    assert b"Host: expected the header once" in body


def test_host_header_is_required_after_an_http_1_0_request(client_url: str) -> None:
    heads = [
        f"GET /livez HTTP/{version}\r\nConnection: keep-alive\r\n\r\n" for version in ("1.0", "1.1")
    ]
    with connect(client_url) as connection:
        connection.sendall("".join(heads).encode())
        assert [status for status, _ in read_responses(connection, 2)] == [200, 400]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET nonsense\r\n\r\n", 400),
        (b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (post("/predict", ROW, "Content-Length: 3"), 400),
        (post("/predict", ROW, "Transfer-Encoding: chunked"), 400),
        (post("/predict", ROW, "Bad Name: 3"), 400),
        (b"MADEUP / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ],
)
def test_malformed_requests_are_rejected_and_the_connection_is_closed(
    client_url: str, data: bytes, status: int
) -> None:
    with connect(client_url) as connection:
        connection.sendall(data)
        assert read_responses(connection, 1)[0][0] == status
        assert connection.recv(100) == b""


def test_stalled_head_times_out(client_url: str) -> None:
    with connect(client_url) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        started = time.monotonic()
        assert read_responses(connection, 1)[0][0] == 408
        assert time.monotonic() - started < 15


def test_expect_100_continue_is_answered_before_the_body(client_url: str) -> None:
    with connect(client_url) as connection:
        head, _, body = post("/predict", ROW, "Expect: 100-continue").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_responses(connection, 1)[0][0] == 200
    with connect(client_url) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 99999999\r\n\r\n"
        )
        assert read_responses(connection, 1)[0][0] == 413


def test_oversized_body_gets_an_error_response(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, CLIENT_MAX_BODY_BYTES="1000")
    for _ in range(5):
        with connect(client.address) as connection:
            connection.sendall(post("/predict", b" " * 400_000))
            ((status, body),) = read_responses(connection, 1)
        assert status == 413
        assert b"expected at most 1000 bytes" in body


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/swagger-ui-bundle.js"])
def test_slow_readers_are_counted_and_disconnected(
    model_server: str, starter: Starter, path: str
) -> None:
    client = starter.client(model_server, CLIENT_WRITE_TIMEOUT="1")
    connections = [connect(client.address) for _ in range(3)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(get(path) * 400)
    name = "client_slow_readers_total"
    wait_for(lambda: metric(client, name) == len(connections), "all were closed", 60)
    wait_for(
        lambda: metric(client, "client_http_requests_in_flight") == 1,
        "no other request is in flight",
        5,
    )
    for connection in connections:
        connection.close()
    assert requests.post(f"{client.address}/predict", ROW, timeout=10).status_code == 200


def test_too_many_unread_bytes_close_the_slowest_connections(
    model_server: str, starter: Starter
) -> None:
    client = starter.client(model_server, CLIENT_WRITE_TIMEOUT="60", CLIENT_MAX_UNSENT_BYTES="1000")
    connections = [connect(client.address) for _ in range(3)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(get("/openapi.json") * 400)
    wait_for(lambda: metric(client, "client_slow_readers_total") == 2, "one is left", 60)
    for connection in connections:
        connection.close()


def test_compression_bomb_is_rejected(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server)
    bomb = gzip.compress(b'{"instances": [' + b"1," * 7_000_000 + b"1]}")
    url = f"{client.address}/v1/models/breast_cancer"
    for verb in ("predict", "classify", "regress", "explain"):
        response = requests.post(
            f"{url}:{verb}", bomb, headers={"Content-Encoding": "gzip"}, timeout=20
        )
        assert response.status_code == 413
        assert len(response.content) < 500


def find_fault(status: int, headers: dict[str, str], body: bytes) -> str:
    return "" if status == 200 else body.decode()


@pytest.mark.parametrize("number", [1, 2])
def test_stop_loses_no_request_on_a_keep_alive_connection(
    model_server: str, starter: Starter, number: int
) -> None:
    client = starter.client(model_server, CLIENT_WORKERS=str(number))
    url = f"{client.address}/predict"
    with Callers(url, ROW, find_fault, 16, may_be_refused=True) as callers:
        wait_for(lambda: callers.ok_count > 300, "requests are answered", 20)
        client.process.send_signal(signal.SIGTERM)
        callers.join()
    assert callers.faults == {}
    assert client.process.wait(15) == 0


@pytest.mark.parametrize("number", [1, 2])
def test_sighup_replaces_the_workers_without_losing_requests(
    model_server: str, starter: Starter, number: int
) -> None:
    client = starter.client(model_server, CLIENT_WORKERS=str(number))
    before = workers(client)
    with Callers(f"{client.address}/predict", ROW, find_fault, 16) as callers:
        wait_for(lambda: callers.ok_count > 300, "requests are answered", 20)
        client.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not workers(client) & before, "all were replaced", 30)
        answered = callers.ok_count
        wait_for(lambda: callers.ok_count > answered + 300, "requests are answered", 20)
    assert callers.faults == {}
    assert len(workers(client)) == number
    assert is_ready(client)


def is_ready(client: Running) -> bool:
    return requests.get(f"{client.address}/readyz", timeout=5).status_code == 200


def test_readyz_fails_on_every_worker_during_the_drain_delay(
    model_server: str, starter: Starter
) -> None:
    client = starter.client(model_server, CLIENT_WORKERS="2", CLIENT_DRAIN_DELAY="3")
    client.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    statuses = {requests.get(f"{client.address}/readyz", timeout=5).status_code for _ in range(20)}
    assert statuses == {503}
    assert requests.post(f"{client.address}/predict", ROW, timeout=5).status_code == 200


def test_undeliverable_response_fails_no_other_request(model_server: str) -> None:
    responses: list[HttpResponse] = []

    def fail(response: HttpResponse) -> None:
        raise RuntimeError("the connection is closed")

    async def predict() -> None:
        async with Gateway(Settings(server=model_server)) as gateway:
            for respond in (fail, responses.append):
                request = HttpRequest("POST", "/predict", body=ROW)
                gateway.submit(request, gateway.route(request), None, respond)
            while not responses:
                await asyncio.sleep(0.01)

    asyncio.run(predict())
    assert [response.status for response in responses] == [200]


def test_handle_frees_the_slot_of_a_finished_request(model_server: str) -> None:
    async def predict() -> list[int]:
        async with Gateway(Settings(server=model_server, max_requests=1)) as gateway:
            request = HttpRequest("POST", "/predict", body=ROW)
            return [(await gateway.handle(request)).status for _ in range(2)]

    assert asyncio.run(predict()) == [200, 200]


def test_sweep_continues_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def publish() -> None:
        nonlocal calls
        calls += 1
        raise OSError("no space left on device")

    async def sweep() -> None:
        metrics = Metrics()
        vars(metrics)["publish"] = publish
        task = asyncio.create_task(Connections(Settings(), metrics).sweep())
        while calls < 2:
            await asyncio.sleep(0.01)
            assert not task.done()
        task.cancel()

    asyncio.run(sweep())
    assert "connections could not be checked" in caplog.text
