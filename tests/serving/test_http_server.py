"""`--rest_api_port` serves the status of models, and rejects everything else."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.serving.conftest import RunningServer, Serve, model_flags
from tests.support.affine import publish
from tests.support.processes import free_port, wait_for


@pytest.fixture
def url(base_path: Path, serve: Serve) -> str:
    publish(base_path, 1)
    port = free_port()
    serve(*model_flags(base_path), f"--rest_api_port={port}", "--rest_api_timeout_in_ms=2000")
    return f"http://127.0.0.1:{port}"


def get(url: str, **options: Any) -> requests.Response:
    return requests.get(url, timeout=5, **options)


def test_returns_model_version_status(url: str) -> None:
    status = {"error_code": "OK", "error_message": ""}
    expected = {
        "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": status}],
    }
    assert get(f"{url}/v1/models/m").json() == expected
    assert get(f"{url}/v1/models/m/versions/1").json() == expected
    assert get(f"{url}/v1/models/m/labels/stable").json() == expected


def test_returns_the_status_of_the_largest_version(base_path: Path, serve: Serve) -> None:
    publish(base_path, 2**63 - 1)
    port = free_port()
    serve(*model_flags(base_path), f"--rest_api_port={port}")
    response = get(f"http://127.0.0.1:{port}/v1/models/m/versions/{2**63 - 1}")
    assert response.json()["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nosuch", "Could not find any versions of model nosuch"),
        ("m/versions/7", "Could not find version 7 of model m"),
    ],
)
def test_unknown_model_or_version_returns_404(url: str, path: str, error: str) -> None:
    response = get(f"{url}/v1/models/{path}")
    assert (response.status_code, response.json()) == (404, {"error": error})


def test_failed_version_reports_its_error(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    port = free_port()
    server: RunningServer = serve(*model_flags(base_path), f"--rest_api_port={port}")
    (base_path / "2").mkdir()
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    response = get(f"http://127.0.0.1:{port}/v1/models/m/versions/2").json()
    (version,) = response["model_version_status"]
    assert (version["state"], version["status"]["error_code"]) == ("END", "NOT_FOUND")
    assert str(base_path / "2") in version["status"]["error_message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/v1/models/m/metadata"),
        ("GET", "/v1/models/../m"),
        ("GET", "/v1/models/m/versions/9223372036854775808"),
        ("GET", "/v1/models/m/versions/99999999999999999999"),
        ("POST", "/v1/models/m:predict"),
        ("PUT", "/v1/models/m"),
    ],
)
def test_other_paths_and_methods_return_404_and_mention_the_client(
    url: str, method: str, path: str
) -> None:
    request = requests.Request(method, url, json={"instances": [1]}).prepare()
    request.url = url + path  # without normalising the path
    with requests.Session() as session:
        response = session.send(request, timeout=5)
    assert response.status_code == 404
    assert "the client in front of this server serves" in response.json()["error"]


def test_cors_is_enabled_only_by_flag(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    for flags, allowed in (((), None), (("--rest_api_enable_cors_support",), "*")):
        port = free_port()
        serve(*model_flags(base_path), f"--rest_api_port={port}", *flags)
        response = get(f"http://127.0.0.1:{port}/v1/models/m", headers={"Origin": "http://a"})
        assert response.headers.get("Access-Control-Allow-Origin") == allowed


def test_silent_and_slow_connections_are_closed_and_do_not_block_others(url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(30)]
    slow = socket.create_connection((host, int(port)))
    assert get(f"{url}/v1/models/m").status_code == 200
    silent[0].setblocking(False)
    with pytest.raises(BlockingIOError):  # still open, so it did not block the request
        silent[0].recv(1)
    started = time.monotonic()
    with suppress(OSError):
        while time.monotonic() - started < 30:
            slow.sendall(b"G")
            time.sleep(0.1)
    assert time.monotonic() - started < 30
    silent[0].settimeout(10)
    assert silent[0].recv(1) == b""
    for connection in (*silent, slow):
        connection.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 no HTTP\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET " + b"/" * 300_000 + b" HTTP/1.1\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", b"413"),
    ],
    ids=["TLS", "no path", "long path", "long body"],
)
def test_invalid_requests_get_an_http_error(url: str, data: bytes, status: bytes) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), 5) as connection, suppress(OSError):
        connection.sendall(data)
        assert connection.recv(1000).split()[1] == status
    assert get(f"{url}/v1/models/m").status_code == 200
