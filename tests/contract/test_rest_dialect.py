"""Recorded requests to TensorFlow Serving's REST port get the same replies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.dialects.rest.routes import route
from client.messages import ModelVersionStatus
from client.model_server import ModelServer
from tests import processes
from tests.conftest import missing
from tests.contract import corpus
from tests.contract.corpus import Case
from tests.contract.rest_driver import Driver
from tests.processes import Running

CASES = sorted(corpus.cases(), key=lambda case: case.server)
DIFFERENCES = corpus.differences()
MOST_DIFFERENCES = 24
SETTLED = (ModelVersionStatus.State.Value("AVAILABLE"), ModelVersionStatus.State.Value("END"))


class Drivers:
    """The dialect in front of a model server of one configuration at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._running: Running | None = None
        self._driver: Driver | None = None

    def of(self, name: str) -> Driver:
        if self._driver is None or name != self._name:
            self.close()
            folder = self._folder / name
            folder.mkdir()
            flags, models = corpus.server_setup(name, folder)
            self._running = processes.start_model_server(folder / "log", *flags)
            self._settle(models)
            cors = "--rest_api_enable_cors_support=true" in flags
            self._name, self._driver = name, Driver(self._running.address, cors=cors)
        return self._driver

    def _settle(self, models: list[str]) -> None:
        assert self._running is not None
        with ModelServer(self._running.address) as server:

            def settled() -> bool:
                return all(v.state in SETTLED for name in models for v in server.status(name))

            processes.wait_for(settled, "all versions have loaded or failed")

    def close(self) -> None:
        if self._driver is not None and self._running is not None:
            self._driver.close()
            assert self._running.stop() == 0, self._running.output()
        self._driver = self._running = None


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    drivers = Drivers(tmp_path_factory.mktemp("servers"))
    yield drivers
    drivers.close()


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_reply_is_the_one_recorded_or_the_one_listed(drivers: Drivers, case: Case) -> None:
    if case.model in corpus.ORIGINALS and not (corpus.MODELS / case.model).is_dir():
        missing(f"the model {case.model} is TensorFlow Serving's own, and not here")
    listed = DIFFERENCES.get(case.id)
    if listed is not None and listed.elsewhere:
        assert route(case.request) is None
        return
    reply = drivers.of(case.server).handle(case.request)
    if listed is None:
        assert corpus.faults(case, reply) == []
        return
    assert reply.status == listed.status
    assert listed.contains in reply.body.decode()
    assert listed.body is None or without_null(json.loads(reply.body)) == listed.body
    assert corpus.faults(case, reply), "as recorded, so no difference"


def without_null(value: Any) -> Any:
    """Put the text "null" for null, which TOML cannot say."""
    if isinstance(value, dict):
        return {key: without_null(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_null(inner) for inner in value]
    return "null" if value is None else value


def test_there_are_few_differences_and_each_is_about_a_recorded_case() -> None:
    assert len(DIFFERENCES) <= MOST_DIFFERENCES
    assert DIFFERENCES.keys() <= {case.id for case in CASES}
    assert all(difference.reason for difference in DIFFERENCES.values())
