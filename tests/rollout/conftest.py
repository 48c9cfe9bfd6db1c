"""Model servers that follow a controller's config file, and a controller's command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rollout.__main__ import main
from tests.conftest import Starter
from tests.support import affine
from tests.support.caller import Caller
from tests.support.processes import free_port, wait_for

FAST_POLLING = (
    "--file_system_poll_wait_seconds=0.1",
    "--model_config_file_poll_wait_seconds=0.1",
    "--max_num_load_retries=0",
)
ALLOW_LABELS = "--allow_version_labels_for_unavailable_models=true"


@dataclass
class Site:
    """A models directory with the model `m`, its rollout files, and its servers and gateways."""

    models: Path
    servers: list[str] = field(default_factory=list)
    gateways: list[str] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.models / ".rollout"

    @property
    def config(self) -> str:
        return (self.directory / "models.config").read_text()

    def publish(self, version: int, seconds: float = 0.0) -> None:
        affine.publish(self.models / "m", version, seconds)

    def arguments(self, command: str, *options: object) -> list[str]:
        common = [f"--models={self.models}", "--model=m"]
        common += [f"--servers={','.join(self.servers)}", f"--gateways={','.join(self.gateways)}"]
        return [command, *common, *map(str, options)]

    def run(self, command: str, *options: object) -> Result:
        return CliRunner().invoke(main, self.arguments(command, *options))

    def __call__(self, command: str, *options: object) -> str:
        """Run a command that must succeed, and return its output."""
        result = self.run(command, *options)
        assert result.exit_code == 0, result.output
        return result.output

    def expect_error(self, command: str, *options: object, status: int = 1) -> str:
        """Run a command that must fail with a one-line error, and return the error."""
        result = self.run(command, *options)
        assert result.exit_code == status, result.output
        lines = result.output.strip().splitlines()
        assert lines[-1].startswith("Error: ")
        assert status == 2 or len(lines) == 1, result.output
        return lines[-1].removeprefix("Error: ")

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.directory / "m.json").read_text())
        return state

    def history(self) -> list[dict[str, Any]]:
        lines = (self.directory / "m.history.ndjson").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "models")
    site.publish(1)
    return site


Serve = Callable[..., Caller]


@pytest.fixture
def serve(site: Site, starter: Starter) -> Iterator[Serve]:
    """Start model servers that follow the site's config file."""
    with ExitStack() as stack:

        def serve(*flags: str) -> Caller:
            site("init")
            port = free_port()
            running = starter.model_server(
                *FAST_POLLING,
                f"--model_config_file={site.directory / 'models.config'}",
                f"--rest_api_port={port}",
                *(flags or (ALLOW_LABELS,)),
            )
            site.servers.append(f"http://127.0.0.1:{port}")
            caller = stack.enter_context(Caller(running.address))
            wait_for(lambda: "AVAILABLE" in caller.states().values(), "a version is served")
            return caller

        yield serve
