"""The Flask application, as served by `flask run` or any other WSGI server."""

from __future__ import annotations

import gzip
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient

from client.http import flask_app
from client.http.api_keys import hash_key
from client.http.flask_app import create_app
from client.http.flask_bridge import BackgroundGateway
from client.settings import Settings
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
def test_predictions_match_the_event_loop_server(url: str, client_url: str, path: str) -> None:
    response = requests.post(url + path, json=BODY, timeout=10)
    expected = requests.post(client_url + path, json=BODY, timeout=10)
    assert response.status_code == expected.status_code == 200
    assert response.json() == expected.json()
    assert response.headers["Content-Type"] == expected.headers["Content-Type"]


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
def test_routes_match_the_event_loop_server(
    url: str, client_url: str, method: str, path: str, status: int
) -> None:
    response = requests.request(method, url + path, timeout=10)
    expected = requests.request(method, client_url + path, timeout=10)
    assert (response.status_code, expected.status_code) == (status, status)
    assert response.headers.get("Allow") == expected.headers.get("Allow")
    if status >= 400:
        assert response.json() == expected.json()


def test_bodies_are_limited_and_decompressed(url: str) -> None:
    body = requests.Request("POST", f"{url}/predict", json=BODY).prepare().body
    assert isinstance(body, bytes)
    headers = {"Content-Encoding": "gzip"}

    def status(data: bytes) -> int:
        response = requests.post(f"{url}/predict", data, headers=headers, timeout=10)
        return response.status_code

    assert status(gzip.compress(body)) == 200
    assert status(gzip.compress(bytes(20_001))) == 413
    assert requests.post(f"{url}/predict", bytes(20_001), timeout=10).status_code == 413


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """The application in this process, without a model server."""
    keys = tmp_path / "keys"
    keys.write_text(f"shop {hash_key('secret')}")
    settings = Settings(server="127.0.0.1:1", api_keys=keys, max_body_bytes=100)
    background = BackgroundGateway(settings)
    monkeypatch.setattr(flask_app, "BackgroundGateway", lambda _: background)
    yield create_app(settings).test_client()
    link = background.bridge()
    link.run(link.gateway.__aexit__(None, None, None))
    link._loop.call_soon_threadsafe(link._loop.stop)


def test_path_may_arrive_decoded(app: FlaskClient) -> None:
    """As from wsgiref, which passes no request line."""
    response = app.post(
        "/v1/models/m:predict",
        data=b'{"instances": [1]}',
        headers={"X-API-Key": "secret"},
        environ_overrides={"RAW_URI": "", "REQUEST_URI": ""},
    )
    assert response.status_code == 503
    assert b"cannot be reached" in response.data


def test_key_is_checked_before_the_body_is_read(app: FlaskClient) -> None:
    body = io.BytesIO(b"{}")
    response = app.post("/predict", input_stream=body, content_length=2)
    assert (response.status_code, body.tell()) == (401, 0)


@pytest.mark.parametrize(("size", "is_large"), [(100, False), (101, True), (102, True)])
def test_chunked_body_may_reach_the_limit(app: FlaskClient, size: int, is_large: bool) -> None:
    response = app.post(
        "/predict",
        input_stream=io.BytesIO(bytes(size)),
        headers={"X-API-Key": "secret", "X-Request-ID": "r1"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert (response.status_code == 413) == is_large
    assert response.headers["X-Request-ID"] == "r1"
    metric = b'client_http_requests_total{method="POST",route="/predict",status="413"} 1.0'
    assert (metric in app.get("/metrics").data) == is_large


def test_gateway_that_cannot_start_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    app = create_app(Settings(api_keys=tmp_path / "nosuch")).test_client()
    for _ in range(2):
        response = app.get("/livez")
        assert response.status_code == 500
        assert b"internal error" in response.data
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name == "gateway"]
