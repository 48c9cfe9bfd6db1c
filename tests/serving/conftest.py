"""Fixtures of the model server's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.support import forked
from tests.support.caller import Caller, models_config
from tests.support.processes import Running

# Poll often, and retry failed loads soon.
QUICK = (
    "--file_system_poll_wait_seconds=0.05",
    "--max_num_load_retries=1",
    "--load_retry_interval_micros=10000",
)


class RunningServer(Caller):
    """A caller, with the process of its model server."""

    def __init__(self, running: Running) -> None:
        super().__init__(running.address)
        self.running = running


Serve = Callable[..., RunningServer]
FailedStart = Callable[..., str]


def model_flags(base_path: Path) -> tuple[str, str]:
    """Return the flags that serve one model, named like its base path."""
    return f"--model_name={base_path.name}", f"--model_base_path={base_path}"


def config_flag(folder: Path, *entries: str) -> str:
    """Write a model config file in a folder, and return its flag."""
    config = folder / "models.config"
    config.write_text(models_config(*entries))
    return f"--model_config_file={config}"


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    path = tmp_path / "m"
    path.mkdir()
    return path


@pytest.fixture
def serve(starter: Starter) -> Iterator[Serve]:
    """Start a model server that polls often; `flags` override these defaults."""
    with ExitStack() as stack:

        def serve(*flags: str) -> RunningServer:
            return stack.enter_context(RunningServer(starter.model_server(*QUICK, *flags)))

        yield serve


@pytest.fixture
def failed_start(starter: Starter) -> FailedStart:
    """Start a model server that must exit with an error, and return its output."""

    def failed_start(*flags: str) -> str:
        log = starter.folder / f"failed-{len(starter.running)}.log"
        starter.running.append(forked.start(log, *flags))
        running = starter.running[-1]
        assert running.process.wait(60) in (1, 2)
        assert "Traceback" not in running.output()
        return running.output()

    return failed_start
