"""What `--rest_api_port` answers: a model's state, and that all else is elsewhere."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.serving.conftest import Serve, Served, flags_of
from tests.support.affine import publish
from tests.support.processes import free_port, wait_for


@pytest.fixture
def url(base_path: Path, serve: Serve) -> str:
    publish(base_path, 1)
    port = free_port()
    serve(*flags_of(base_path), f"--rest_api_port={port}", "--rest_api_timeout_in_ms=2000")
    return f"http://127.0.0.1:{port}"


def get(url: str, **options: Any) -> requests.Response:
    return requests.get(url, timeout=5, **options)


def test_the_state_of_a_model_and_of_a_version(url: str) -> None:
    status = {"error_code": "OK", "error_message": ""}
    wanted = {
        "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": status}],
    }
    assert get(f"{url}/v1/models/m").json() == wanted
    assert get(f"{url}/v1/models/m/versions/1").json() == wanted
    assert get(f"{url}/v1/models/m/labels/stable").json() == wanted


def test_a_version_may_be_any_number_there_is(base_path: Path, serve: Serve) -> None:
    publish(base_path, 2**63 - 1)
    port = free_port()
    serve(*flags_of(base_path), f"--rest_api_port={port}")
    reply = get(f"http://127.0.0.1:{port}/v1/models/m/versions/{2**63 - 1}")
    assert reply.json()["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nosuch", "Could not find any versions of model nosuch"),
        ("m/versions/7", "Could not find version 7 of model m"),
    ],
)
def test_what_is_not_known_is_404_with_the_original_s_text(url: str, path: str, error: str) -> None:
    reply = get(f"{url}/v1/models/{path}")
    assert (reply.status_code, reply.json()) == (404, {"error": error})


def test_a_version_that_failed_says_why(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    port = free_port()
    server: Served = serve(*flags_of(base_path), f"--rest_api_port={port}")
    (base_path / "2").mkdir()
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    reply = get(f"http://127.0.0.1:{port}/v1/models/m/versions/2").json()
    (told,) = reply["model_version_status"]
    assert (told["state"], told["status"]["error_code"]) == ("END", "NOT_FOUND")
    assert str(base_path / "2") in told["status"]["error_message"]


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
def test_all_else_is_answered_by_saying_where_it_is(url: str, method: str, path: str) -> None:
    request = requests.Request(method, url, json={"instances": [1]}).prepare()
    request.url = url + path  # as it is
    with requests.Session() as session:
        reply = session.send(request, timeout=5)
    assert reply.status_code in (404, 501)
    if method != "PUT":
        assert "the client in front of this server speaks" in reply.json()["error"]


def test_pages_of_other_origins_may_read_it_if_the_flag_says_so(
    base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    for flags, allowed in (((), None), (("--rest_api_enable_cors_support",), "*")):
        port = free_port()
        serve(*flags_of(base_path), f"--rest_api_port={port}", *flags)
        reply = get(f"http://127.0.0.1:{port}/v1/models/m", headers={"Origin": "http://a"})
        assert reply.headers.get("Access-Control-Allow-Origin") == allowed


def test_a_caller_who_says_nothing_is_sent_away_and_does_not_keep_others_from_asking(
    url: str,
) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(30)]
    slow = socket.create_connection((host, int(port)))
    started = time.monotonic()
    assert get(f"{url}/v1/models/m").status_code == 200
    assert time.monotonic() - started < 1.5
    with suppress(OSError):
        while time.monotonic() - started < 10:
            slow.sendall(b"G")  # a byte now and then keeps nobody's place either
            time.sleep(0.1)
    assert time.monotonic() - started < 8
    assert silent[0].recv(1) == b""
    for connection in (*silent, slow):
        connection.close()


def test_what_is_no_request_that_is_known_is_told_in_json(url: str) -> None:
    reply = requests.put(f"{url}/v1/models/m", data=b"x", timeout=5)
    assert reply.status_code == 501
    assert reply.json() == {"error": "Unsupported method ('PUT')"}
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b'GET /"\\ HTTP/9.9\r\n\r\n')
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert b" 505 " in head
    assert json.loads(body) == {"error": "Invalid HTTP version (9.9)"}


def test_garbage_is_a_bad_request(url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    for line in (
        b"\x16\x03\x01 no HTTP\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET " + b"/" * 70_000 + b"\r\n",
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.settimeout(5)
            connection.sendall(line)
            connection.recv(1000)
    assert get(f"{url}/v1/models/m").status_code == 200
