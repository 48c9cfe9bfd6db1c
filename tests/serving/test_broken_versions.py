"""Broken versions fail with a clear error, and the others keep serving."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.conftest import QUICK, Serve, model_flags
from tests.support import forked
from tests.support.affine import publish
from tests.support.caller import Caller
from tests.support.processes import wait_for

FILES = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets/settings.txt",
)
RECORDS = "assets.extra/tf_serving_warmup_requests"
# The fractions of a file that are kept.
FRACTIONS = (0.0, 0.01, 0.3, 0.5, 0.9, 0.999)
OK, UNKNOWN = 0, 2


class Site:
    """A base path with version 1, and its server; tests add versions."""

    def __init__(self, base_path: Path, server: Caller) -> None:
        self.server = server
        self._base_path = base_path
        self._newest = 1

    def prepare_version(self) -> Path:
        """Return a new valid version outside the base path."""
        self._newest += 1
        return publish(self._base_path.parent / "hidden", self._newest)

    def load_error(self, version: Path) -> str:
        """Move a version into the base path, wait until it has failed, and return the error."""
        number = int(version.name)
        version.rename(self._base_path / version.name)
        wait_for(lambda: self.server.has_ended(number), f"version {number} has failed")
        status = self.server.statuses()[number].status
        assert status.error_code not in (OK, UNKNOWN), status
        assert self.server.predict_x() == ([11.0], 1)
        shutil.rmtree(self._base_path / version.name)
        return str(status.error_message)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base_path = tmp_path_factory.mktemp("site") / "m"
    publish(base_path, 1)
    running = forked.start_model_server(base_path.parent / "log", *QUICK, *model_flags(base_path))
    with Caller(running.address) as server:
        yield Site(base_path, server)
    assert running.stop() == 0
    assert "Traceback" not in running.output()


@pytest.mark.parametrize("file", FILES[:3])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_truncated_file_fails_the_load(site: Site, file: str, fraction: float) -> None:
    version = site.prepare_version()
    data = (version / file).read_bytes()
    (version / file).write_bytes(data[: int(len(data) * fraction)])
    assert site.load_error(version)


@pytest.mark.parametrize("file", FILES)
def test_missing_file_fails_the_load(site: Site, file: str) -> None:
    version = site.prepare_version()
    (version / file).unlink()
    assert version.name in site.load_error(version)


@pytest.mark.parametrize("file", FILES)
def test_directory_instead_of_a_file_fails_the_load(site: Site, file: str) -> None:
    version = site.prepare_version()
    (version / file).unlink()
    (version / file).mkdir()
    assert site.load_error(version)


@pytest.mark.parametrize("file", [*FILES, "saved_model.pbtxt", RECORDS])
def test_fifo_instead_of_a_file_is_not_opened(site: Site, file: str) -> None:
    version = site.prepare_version()
    if file == "saved_model.pbtxt":
        (version / "saved_model.pb").unlink()
    (version / file).parent.mkdir(exist_ok=True)
    (version / file).unlink(missing_ok=True)
    os.mkfifo(version / file)
    assert f"{file}: expected a regular file" in site.load_error(version)


@pytest.mark.parametrize("file", FILES)
def test_symlink_to_a_device_is_not_opened(site: Site, file: str) -> None:
    version = site.prepare_version()
    (version / file).unlink()
    (version / file).symlink_to("/dev/zero")
    assert f"{file}: expected a regular file" in site.load_error(version)


@pytest.mark.parametrize("file", FILES[:3])
def test_garbage_file_fails_the_load(site: Site, file: str) -> None:
    version = site.prepare_version()
    size = (version / file).stat().st_size
    (version / file).write_bytes(bytes(n * 7919 % 256 for n in range(size)))
    assert site.load_error(version)


def test_empty_directory_fails_the_load(site: Site) -> None:
    version = site.prepare_version()
    shutil.rmtree(version)
    version.mkdir()
    error = site.load_error(version)
    assert error.startswith("Specified file path does not appear to contain a SavedModel bundle")


def test_malformed_text_graph_fails_the_load(site: Site) -> None:
    version = site.prepare_version()
    (version / "saved_model.pb").unlink()
    (version / "saved_model.pbtxt").write_text("no graph")
    assert site.load_error(version)


def test_version_copied_in_place_is_served_once_complete(base_path: Path, serve: Serve) -> None:
    """As in TensorFlow Serving, the load is retried while attempts are left."""
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--max_num_load_retries=1000")
    source, copy = publish(base_path.parent / "hidden", 2), base_path / "2"
    for file in FILES:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        data = (source / file).read_bytes()
        for end in (len(data) // 2, len(data)):
            time.sleep(0.05)
            (copy / file).write_bytes(data[:end])
            assert server.predict_x()[1] == 1 or file == FILES[-1]
    wait_for(lambda: server.is_available(2), "the complete copy")
    assert server.predict_x() == ([12.0], 2)
