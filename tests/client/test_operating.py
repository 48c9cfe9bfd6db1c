"""Limits, deadlines, probes, shutdown and several workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.conftest import Starter
from tests.support.link import Link
from tests.support.processes import Running, free_port, wait_for
from tests.support.tables import breast_cancer

ROW = breast_cancer().features[0].tolist()
BODY = json.dumps({"instances": [ROW]}).encode()
Send = Callable[[Running, bytes], socket.socket]


@pytest.fixture
def link(model_server: str) -> Iterator[Link]:
    """Yield a link to the model server that the test can hold and cut."""
    link = Link(model_server)
    yield link
    link.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def predict(client: Running, **headers: str) -> requests.Response:
    return requests.post(f"{client.address}/predict", BODY, headers=headers, timeout=30)


def get(client: Running, path: str) -> requests.Response:
    return requests.get(f"{client.address}{path}", timeout=5)


def metric(client: Running, name: str) -> float:
    lines = get(client, "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_until_in_flight(client: Running, number: int) -> None:
    # The request for the metrics is in flight too.
    name = "client_http_requests_in_flight"
    wait_for(lambda: metric(client, name) == number + 1, f"{number} requests are in flight", 10)


@pytest.fixture
def send_raw() -> Iterator[Send]:
    """Yield a function that sends bytes over a new connection, open until the test ends."""
    with ExitStack() as stack:

        def send(client: Running, text: bytes) -> socket.socket:
            url = urlsplit(client.address)
            address = (url.hostname or "", url.port or 0)
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            connection.sendall(text)
            return connection

        yield send


def read_response(connection: socket.socket) -> bytes:
    """Return everything received until the other side closes."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


STALLED = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
STALLED_CHUNKS = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
)
STALLED_FOR_FLASK = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"


TABLE_HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"


@pytest.mark.parametrize(
    "data",
    [
        STALLED,
        TABLE_HEAD + b"Content-Length: 1000\r\n\r\na,b",
        TABLE_HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\na,b",
        STALLED_CHUNKS.replace(b"\r\n1\r\n", b"\r\nZZ\r\n"),
    ],
)
def test_truncated_body_is_rejected_if_the_caller_still_reads(
    model_server: str, starter: Starter, send_raw: Send, data: bytes
) -> None:
    client = starter.client(model_server)
    connection = send_raw(client, data)
    connection.shutdown(socket.SHUT_WR)
    response = read_response(connection)
    assert response.startswith(b"HTTP/1.1 400 "), response
    assert b'"error":"the body is truncated: it ended before all of it arrived"' in response
    assert "Traceback" not in client.output()


def test_unknown_methods_are_counted_as_other(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server)
    for number in range(20):
        for path in ("/livez", "/predict", "/v1/models/m", "/", "/nosuch"):
            requests.request(f"MADE{number}UP", client.address + path, timeout=10)
    text = requests.get(f"{client.address}/metrics", timeout=10).text
    assert "MADE" not in text
    assert 'method="other"' in text


def test_every_response_has_the_request_id(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, CLIENT_MAX_BODY_BYTES="1000")
    csv = {"Content-Type": "text/csv"}
    for method, path, body, headers, status in (
        ("POST", "/predict", "{", {}, 400),
        ("POST", "/predict", " " * 1001, {}, 413),
        ("POST", "/predict", "a,b\n1,2\n", csv, 400),
        ("POST", "/predict", "a", {**csv, "Content-Encoding": "br"}, 415),
        ("GET", "/nosuch", "", {}, 404),
        ("GET", "/", "", {}, 200),
    ):
        with_id = {**headers, "X-Request-ID": "my-1"}
        response = requests.request(
            method, client.address + path, data=body, headers=with_id, timeout=10
        )
        assert (response.status_code, response.headers.get("X-Request-ID")) == (status, "my-1"), (
            path
        )


def test_log_reports_unknown_settings_the_start_and_errors(starter: Starter) -> None:
    server = f"127.0.0.1:{free_port()}"
    client = starter.client(
        server, ready=False, CLIENT_SERVICE_HOST="10.0.0.1", CLIENT_PORT="tcp://10.0.0.1:1"
    )
    assert predict(client).status_code == 503
    assert requests.get(f"{client.address}/readyz", timeout=10).status_code == 503
    lines = [json.loads(line) for line in client.output().splitlines()]
    unknown, start, error = lines
    assert unknown["message"].startswith("CLIENT_SERVICE_HOST is not a setting; Kubernetes ")
    assert start["message"] == f"serving model breast_cancer of {server} on {client.address}"
    assert f"the model server at {server} cannot be reached" in error["reply"]


def test_outage_does_not_fill_the_log(starter: Starter, pool: ThreadPoolExecutor) -> None:
    client = starter.client(f"127.0.0.1:{free_port()}", ready=False)
    started = time.monotonic()
    statuses = {
        response.status_code for response in pool.map(lambda _: predict(client), range(100))
    }
    assert statuses == {503}
    time.sleep(1.1)
    assert predict(client).status_code == 503
    lines = [json.loads(line) for line in client.output().splitlines()[1:]]
    assert len(lines) <= 10 * (time.monotonic() - started + 1)
    assert len(lines) + sum(line.get("left_out", 0) for line in lines) == 101


@pytest.mark.parametrize("data", [STALLED, STALLED_CHUNKS, STALLED_FOR_FLASK])
def test_stalled_body_times_out(
    model_server: str, starter: Starter, send_raw: Send, data: bytes
) -> None:
    client = starter.client(model_server, CLIENT_BODY_TIMEOUT="0.5")
    connections = [send_raw(client, data) for _ in range(20)]
    assert predict(client).status_code == 200
    started = time.monotonic()
    for connection in connections:
        response = read_response(connection)
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"expected it within 0.5 s" in response
    assert time.monotonic() - started < 6


@pytest.mark.parametrize("content_type", ["application/json", "text/csv"])
@pytest.mark.parametrize("trailer", [b"X: " + b"x" * 2**20, b"X: x\r\n" * 200_000])
def test_oversized_trailers_are_rejected(
    client_url: str, content_type: str, trailer: bytes
) -> None:
    host, _, port = client_url.removeprefix("http://").partition(":")
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + trailer)
        assert read_response(connection).startswith(b"HTTP/1.1 431 ")


# The smaller head may arrive at once.
@pytest.mark.parametrize("size", [150_000, 2**20])
def test_oversized_head_is_rejected(client_url: str, size: int) -> None:
    response = requests.get(f"{client_url}/livez", headers={"X-Long": "x" * size}, timeout=20)
    assert response.status_code == 431


def test_excess_requests_get_a_503_and_probes_are_answered(
    model_server: str, starter: Starter, send_raw: Send
) -> None:
    client = starter.client(model_server, CLIENT_MAX_REQUESTS="3")
    connections = [send_raw(client, STALLED) for _ in range(3)]
    wait_for(lambda: predict(client).status_code == 503, "all slots are taken", 5)
    response = predict(client)
    assert response.headers["Retry-After"] == "1"
    assert response.json()["error"] == "3 requests are already in flight; retry later"
    assert get(client, "/").status_code == 503
    for probe in ("/livez", "/readyz", "/metrics", "/stats", "/v2/health/live"):
        assert get(client, probe).status_code == 200
    for connection in connections:
        connection.close()
    wait_for(lambda: predict(client).status_code == 200, "the slots are free again", 5)


def test_requests_beyond_the_queue_limit_get_a_429(
    link: Link, starter: Starter, pool: ThreadPoolExecutor
) -> None:
    client = starter.client(link.address, CLIENT_MAX_WAITING="4", CLIENT_TIMEOUT="20")
    assert predict(client).status_code == 200
    link.hold()
    first = pool.submit(predict, client)
    wait_until_in_flight(client, 1)
    others = [pool.submit(predict, client) for _ in range(7)]
    wait_for(lambda: sum(other.done() for other in others) == 3, "three are rejected", 10)
    link.release()
    responses = [other.result() for other in others]
    assert sorted(response.status_code for response in responses) == [200] * 4 + [429] * 3
    rejected = next(response for response in responses if response.status_code == 429)
    assert rejected.headers["Retry-After"] == "1"
    assert first.result().status_code == 200


def test_waiting_requests_share_a_call(
    link: Link, starter: Starter, pool: ThreadPoolExecutor
) -> None:
    client = starter.client(link.address, CLIENT_TIMEOUT="20")
    assert predict(client).status_code == 200
    link.hold()
    first = pool.submit(predict, client)
    wait_until_in_flight(client, 1)
    before = metric(client, 'client_grpc_call_seconds_count{code="OK",rpc="Predict"}')
    others = [pool.submit(predict, client) for _ in range(20)]
    wait_until_in_flight(client, 21)
    link.release()
    assert {future.result().status_code for future in (first, *others)} == {200}
    after = metric(client, 'client_grpc_call_seconds_count{code="OK",rpc="Predict"}')
    assert after - before == 2
    assert metric(client, "client_batch_rows_sum") == 22


@pytest.mark.parametrize(
    ("timeout", "status"),
    [("0.2", 504), ("1e-9", 504), ("x", 400), ("-1", 400), ("0", 400), ("nan", 400)],
)
def test_request_timeout_header_is_applied_or_rejected(
    link: Link, starter: Starter, timeout: str, status: int
) -> None:
    client = starter.client(link.address, CLIENT_TIMEOUT="20")
    assert predict(client).status_code == 200
    link.hold()
    started = time.monotonic()
    response = predict(client, **{"X-Request-Timeout": timeout})
    assert time.monotonic() - started < 10
    assert response.status_code == status
    link.release()


def test_timeout_setting_limits_the_request_timeout(link: Link, starter: Starter) -> None:
    client = starter.client(link.address, CLIENT_TIMEOUT="0.5")
    assert predict(client, **{"X-Request-Timeout": "inf"}).status_code == 200
    link.hold()
    started = time.monotonic()
    assert predict(client, **{"X-Request-Timeout": "100"}).status_code == 504
    assert time.monotonic() - started < 10
    link.release()


def test_expired_requests_do_not_affect_waiting_requests(
    link: Link, starter: Starter, pool: ThreadPoolExecutor
) -> None:
    client = starter.client(link.address, CLIENT_TIMEOUT="20")
    assert predict(client).status_code == 200
    link.hold()
    first = pool.submit(predict, client)
    wait_until_in_flight(client, 1)
    expiring = [pool.submit(predict, client, **{"X-Request-Timeout": "0.3"}) for _ in range(3)]
    waiting = [pool.submit(predict, client) for _ in range(3)]
    assert {future.result().status_code for future in expiring} == {504}
    link.release()
    assert {future.result().status_code for future in (first, *waiting)} == {200}


def test_livez_responds_when_every_thread_is_busy(
    link: Link, starter: Starter, pool: ThreadPoolExecutor
) -> None:
    client = starter.client(link.address, CLIENT_THREADS="2", CLIENT_TIMEOUT="20")
    link.hold()
    pages = [pool.submit(get, client, "/") for _ in range(4)]
    predictions = [pool.submit(predict, client) for _ in range(4)]
    wait_until_in_flight(client, 8)
    started = time.monotonic()
    assert get(client, "/livez").json() == {"status": "alive"}
    assert time.monotonic() - started < 5
    link.release()
    assert {page.result().status_code for page in pages} == {200}
    assert {prediction.result().status_code for prediction in predictions} == {200}


def test_lost_connection_is_reopened_without_an_error(link: Link, starter: Starter) -> None:
    client = starter.client(link.address)
    for _ in range(3):
        assert predict(client).status_code == 200
        link.cut()
        time.sleep(0.2)
    assert predict(client).status_code == 200
    assert link.connections >= 4


def is_ready(client: Running) -> bool | None:
    """Return whether the client is ready, or None if its port is closed."""
    try:
        return get(client, "/readyz").status_code == 200
    except requests.ConnectionError:
        return None


def test_shutdown_completes_requests_in_flight(
    link: Link, starter: Starter, pool: ThreadPoolExecutor
) -> None:
    client = starter.client(link.address, CLIENT_TIMEOUT="20")
    assert predict(client).status_code == 200
    link.hold()
    in_flight = [pool.submit(predict, client) for _ in range(8)]
    wait_until_in_flight(client, 8)
    client.process.send_signal(signal.SIGTERM)
    wait_for(lambda: is_ready(client) is None, "the port is closed", 5)
    assert client.process.poll() is None
    link.release()
    assert {future.result().status_code for future in in_flight} == {200}
    assert client.process.wait(10) == 0
    assert "Traceback" not in client.output()


def test_drain_delay_reports_not_ready_and_keeps_answering(
    model_server: str, starter: Starter
) -> None:
    client = starter.client(model_server, CLIENT_DRAIN_DELAY="2")
    client.process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    wait_for(lambda: is_ready(client) is False, "it is not ready", 10)
    assert get(client, "/readyz").json()["error"] == "the client is stopping"
    assert predict(client).status_code == 200
    assert get(client, "/livez").status_code == 200
    assert client.process.wait(10) == 0
    assert time.monotonic() - stopped >= 2


def test_second_signal_skips_the_drain_delay(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, CLIENT_DRAIN_DELAY="60")
    client.process.send_signal(signal.SIGTERM)
    wait_for(lambda: is_ready(client) is False, "it is not ready", 10)
    assert client.stop(timeout=5) == 0


@pytest.mark.parametrize(("data", "seconds"), [(b"", 3), (b"GET /livez HTTP/1.1\r\nHost:", 8)])
def test_idle_or_stalled_connections_do_not_delay_shutdown(
    model_server: str, starter: Starter, send_raw: Send, data: bytes, seconds: float
) -> None:
    client = starter.client(model_server)
    with requests.Session() as idle:
        idle.get(f"{client.address}/livez", timeout=5)
        send_raw(client, data)
        started = time.monotonic()
        assert client.stop() == 0
        assert time.monotonic() - started < seconds


def test_ctrl_c_stops_all_workers_cleanly(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, CLIENT_WORKERS="2")
    os.killpg(client.process.pid, signal.SIGINT)
    assert client.process.wait(10) == 0
    assert "Traceback" not in client.output()


def workers(client: Running) -> set[int]:
    result = subprocess.run(
        ["pgrep", "-P", str(client.process.pid)], capture_output=True, text=True, check=False
    )
    return set(map(int, result.stdout.split()))


def test_workers_answer_and_a_killed_worker_is_replaced(
    model_server: str, starter: Starter, pool: ThreadPoolExecutor
) -> None:
    client = starter.client(model_server, CLIENT_WORKERS="2")
    before = workers(client)
    assert len(before) == 2

    def statuses() -> set[int]:
        return {response.status_code for response in pool.map(lambda _: predict(client), range(40))}

    assert statuses() == {200}
    os.kill(min(before), signal.SIGKILL)
    wait_for(lambda: len(workers(client) - before) == 1, "another worker was started", 20)
    wait_for(lambda: is_ready(client), "it is ready", 10)
    assert statuses() == {200}
    assert client.stop() == 0


def test_workers_exit_with_their_parent(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, CLIENT_WORKERS="2")
    pids = workers(client)
    client.process.kill()
    client.process.wait()

    def has_exited(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(lambda: all(map(has_exited, pids)), "the workers have exited", 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"CLIENT_SERVER": "a:1,b:2"}, "several addresses must all be IPv4 or all IPv6"),
        (
            {"CLIENT_SERVER_CERT": "a.pem", "CLIENT_SERVER_TLS": "true"},
            "server_cert and server_key must be set together",
        ),
        ({"CLIENT_SERVER_CA": "a.pem"}, "need CLIENT_SERVER_TLS=true"),
        ({"CLIENT_TIMEOT": "3"}, "CLIENT_TIMEOT: no such setting; docs/settings.md lists all"),
        ({"CLIENT_WORKERS": "0"}, "CLIENT_WORKERS: Input should be greater than or equal to 1"),
    ],
)
def test_invalid_settings_are_reported_without_a_traceback(
    starter: Starter, settings: dict[str, Any], message: str
) -> None:
    client = starter.command([sys.executable, "-m", "client", "serve", "--port=0"], **settings)
    assert client.process.wait(20) != 0
    assert message in client.output()
    assert "Traceback" not in client.output()
