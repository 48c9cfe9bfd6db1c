"""The Flask application alone, as `flask run` or any other WSGI server serves it."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator

import pytest
import requests

from tests.support import processes
from tests.support.processes import free_port
from tests.support.tables import breast_cancer

TABLE = breast_cancer()
BODY = {"instances": TABLE.features[:2].tolist()}


@pytest.fixture(scope="module")
def url(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "flask",
        "--app",
        "client.http.flask_app",
        "run",
        f"--port={port}",
    ]
    log = tmp_path_factory.mktemp("flask") / "log"
    settings = {"CLIENT_SERVER": model_server, "CLIENT_MAX_BODY_BYTES": "20000"}
    running = processes.start(command, log, **settings)
    running.address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return requests.get(f"{running.address}/readyz", timeout=5).ok
        except requests.ConnectionError:
            return False

    processes.wait_for(answers, "it is ready")
    yield running.address
    running.stop()
    assert "Traceback" not in running.output()


@pytest.mark.parametrize("path", ["/predict", "/v1/models/breast_cancer:predict"])
def test_it_answers_as_the_event_loop_does(url: str, client_url: str, path: str) -> None:
    one = requests.post(url + path, json=BODY, timeout=10)
    other = requests.post(client_url + path, json=BODY, timeout=10)
    assert one.status_code == other.status_code == 200
    assert one.json() == other.json()
    assert one.headers["Content-Type"] == other.headers["Content-Type"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/livez", 200),
        ("HEAD", "/livez", 200),
        ("POST", "/livez", 405),
        ("GET", "/predict", 405),
        ("GET", "/nosuch", 404),
        ("GET", "/metrics", 200),
        ("GET", "/v1/models/breast_cancer", 200),
        ("GET", "/v1/models/a%2Fb", 404),
        ("GET", "/v2/health/ready", 200),
    ],
)
def test_every_route_has_the_same_status(
    url: str, client_url: str, method: str, path: str, status: int
) -> None:
    one = requests.request(method, url + path, timeout=10)
    other = requests.request(method, client_url + path, timeout=10)
    assert (one.status_code, other.status_code) == (status, status)
    assert one.headers.get("Allow") == other.headers.get("Allow")
    if status >= 400:
        assert one.json() == other.json()


def test_bodies_are_bounded_and_unzipped_too(url: str) -> None:
    whole = requests.Request("POST", f"{url}/predict", json=BODY).prepare().body
    assert isinstance(whole, bytes)
    headers = {"Content-Encoding": "gzip"}

    def status(data: bytes) -> int:
        reply = requests.post(f"{url}/predict", data, headers=headers, timeout=10)
        return reply.status_code

    assert status(gzip.compress(whole)) == 200
    assert status(gzip.compress(bytes(20_001))) == 413
    assert requests.post(f"{url}/predict", bytes(20_001), timeout=10).status_code == 413
