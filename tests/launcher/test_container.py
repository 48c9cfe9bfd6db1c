"""`python -m launcher.container` with an engine that only records calls."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from launcher import container


class FakeContainer:
    """Receives SIGTERM while it starts, and logs until it is stopped."""

    name = "fake"

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.running = False
        self.removed = False

    def create(self, image: str, **options: Any) -> FakeContainer:
        self.options = options
        return self

    def start(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        self.running = True

    def stop(self, timeout: int) -> None:
        self.running = False

    def logs(self, **options: bool) -> Iterator[bytes]:
        assert not self.running, "the log never ends"
        yield b"log\n"

    def wait(self) -> dict[str, int]:
        return {"StatusCode": 0}

    def remove(self, force: bool) -> None:
        self.removed = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeContainer]:
    fake = FakeContainer()
    containers = SimpleNamespace(create=fake.create, list=lambda **_: [])
    images = SimpleNamespace(get=lambda image: None)
    engine = SimpleNamespace(containers=containers, images=images, close=lambda: None)
    monkeypatch.setattr("docker.from_env", lambda: engine)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield fake
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_signal_during_the_start_stops_the_container(fake: FakeContainer, tmp_path: Path) -> None:
    result = CliRunner().invoke(container.main, [f"--model_base_path={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert fake.removed


def test_a_relative_or_linked_config_file_is_found_in_the_container(
    fake: FakeContainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("models")
    monkeypatch.chdir(tmp_path)
    flags = ["--model_base_path=link/m", "--model_config_file=link/models.config"]
    CliRunner().invoke(container.main, flags)
    models = str(tmp_path.resolve() / "models")
    assert f"--model_config_file={models}/models.config" in fake.options["command"]
    assert fake.options["volumes"] == {models: {"bind": models, "mode": "ro"}}
