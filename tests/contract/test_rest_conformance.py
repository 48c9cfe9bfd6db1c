"""Recorded requests to TensorFlow Serving's REST port get the same responses from the client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from client.http.messages import HttpRequest, HttpResponse
from client.serving.client import ServingClient
from client.serving.protos import ModelVersionStatus
from tests.contract import recordings, rest_recordings
from tests.contract.rest_recordings import Case
from tests.support import forked, processes

# Only one server runs at a time, so cases are grouped by server.
CASES = sorted(rest_recordings.cases(), key=lambda case: case.server)
DIFFERENCES = rest_recordings.differences()
MAX_DIFFERENCES = 24
SETTLED = (ModelVersionStatus.State.Value("AVAILABLE"), ModelVersionStatus.State.Value("END"))


class Clients:
    """A client in front of a model server, of one configuration at a time."""

    def __init__(self, models: Path, folder: Path) -> None:
        self._models = models
        self._folder = folder
        self._stack = ExitStack()
        self._name = ""
        self._address = ""

    def address(self, name: str) -> str:
        """Return host:port of the client in front of the model server with this configuration."""
        if name != self._name:
            self.close()
            self._name, self._address = name, self._start(name)
        return self._address

    def close(self) -> None:
        self._stack.close()

    def _start(self, name: str) -> str:
        folder = self._folder / name
        folder.mkdir()
        setup = recordings.set_up(name, self._models, folder)
        flags = [*setup.flags, f"--rest_api_port={processes.free_port()}"]
        server = forked.start_model_server(folder / "serving.log", *flags)
        self._stack.callback(server.stop)
        with ServingClient(server.address) as connection:

            def is_settled() -> bool:
                statuses = (connection.status(model) for model in setup.models)
                return all(v.state in SETTLED for versions in statuses for v in versions)

            processes.wait_for(is_settled, "all versions have loaded or failed")
        cors = "--rest_api_enable_cors_support=true" in setup.flags
        client = forked.client(
            folder / "client.log",
            server.address,
            CLIENT_MODEL=setup.models[0],
            CLIENT_TIMEOUT="30",
            CLIENT_CORS=str(cors),
        )
        return self._stack.enter_context(client).removeprefix("http://")


@pytest.fixture(scope="module")
def clients(recorded_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    clients = Clients(recorded_models, tmp_path_factory.mktemp("clients"))
    yield clients
    clients.close()


def send(address: str, request: HttpRequest) -> HttpResponse:
    """Send a request without adding headers or normalising the path."""
    connection = http.client.HTTPConnection(address, timeout=60)
    path = f"{request.path}?{request.query}" if request.query else request.path
    connection.putrequest(request.method, path, skip_accept_encoding=True)
    for name, value in request.headers.items():
        connection.putheader(name, value)
    if request.body or request.method == "POST":
        connection.putheader("Content-Length", str(len(request.body)))
    connection.endheaders(request.body or None)
    response = connection.getresponse()
    headers = tuple(response.getheaders())
    content_type = response.getheader("Content-Type") or ""
    body = response.read()
    connection.close()
    return HttpResponse(body, response.status, content_type, headers)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_response_matches_the_recording_or_the_listed_difference(
    clients: Clients, case: Case
) -> None:
    response = send(clients.address(case.server), case.request)
    listed = DIFFERENCES.get(case.id)
    if listed is None:
        assert rest_recordings.compare(case, response) == []
        return
    assert rest_recordings.compare(case, response), (
        "it is listed as a difference but does not differ"
    )
    if not listed.elsewhere:
        assert response.status == listed.status
        assert listed.contains in response.body.decode()
        assert listed.body is None or replace_null(json.loads(response.body)) == listed.body


def replace_null(value: Any) -> Any:
    """Replace null, which TOML lacks, with the text "null"."""
    if isinstance(value, dict):
        return {key: replace_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_null(item) for item in value]
    return "null" if value is None else value


def test_differences_are_few_and_refer_to_recorded_cases() -> None:
    assert len(DIFFERENCES) <= MAX_DIFFERENCES
    assert DIFFERENCES.keys() <= {case.id for case in CASES}
    assert all(difference.reason for difference in DIFFERENCES.values())
