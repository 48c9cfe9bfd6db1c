"""Versions that are added, are removed or fail while the server runs."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.serving.conftest import QUICK, Serve, model_flags
from tests.support.affine import SLOW, publish
from tests.support.caller import (
    Caller,
    model_config,
    models_config,
    raises_rpc_error,
    y_and_version,
)
from tests.support.processes import free_port, wait_for


def test_new_version_replaces_the_old_one_without_a_gap(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    answers: list[tuple[list[float], int]] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            answers.append(server.predict_x())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2")
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert {version for _, version in answers} == {1, 2}
    assert all(y == [10 + version] for y, version in answers)


def test_request_finishes_on_the_version_it_started_on(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1, seconds=SLOW)
    server = serve(*model_flags(base_path))
    call = server.submit_x()
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2 while the request runs")
    assert not call.done()
    # The state is not END while the request runs.
    wait_for(lambda: server.states() == {2: "AVAILABLE", 1: "UNLOADING"}, "version 1 is unloading")
    assert server.predict_x() == ([12.0], 2)
    assert y_and_version(call.result()) == ([11.0], 1)
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")


def test_failed_version_leaves_the_old_one_serving(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    (base_path / "2").mkdir()
    garbage = base_path.parent / "garbage"
    garbage.mkdir()
    (garbage / "saved_model.pb").write_bytes(b"garbage")
    garbage.rename(base_path / "3")
    wait_for(lambda: server.has_ended(3), "version 3 has failed")
    assert server.predict_x() == ([11.0], 1)
    error = server.statuses()[3].status
    assert error.error_code == 15  # DATA_LOSS
    assert "saved_model.pb" in error.error_message
    publish(base_path, 4)
    wait_for(lambda: server.is_available(4), "version 4")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop its read capabilities")
def test_unreadable_version_does_not_stop_polling(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    port = free_port()
    starter.command(
        [
            "setpriv", "--bounding-set=-dac_override,-dac_read_search",
            sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}",
            *QUICK, *model_flags(base_path),
        ]
    )  # fmt: skip
    with Caller(f"127.0.0.1:{port}") as server:
        server.predict_x(wait_for_ready=True, timeout=60)
        unreadable = base_path.parent / "unreadable"
        unreadable.mkdir(mode=0o700)
        os.chown(unreadable, 65534, 65534)
        unreadable.rename(base_path / "2")
        wait_for(lambda: server.has_ended(2), "version 2 has failed")
        assert "Permission denied" in server.statuses()[2].status.error_message
        publish(base_path, 3)
        wait_for(lambda: server.is_available(3), "version 3")


def test_removing_the_newest_version_rolls_back(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    publish(base_path, 2)
    server = serve(*model_flags(base_path))
    assert server.predict_x() == ([12.0], 2)
    shutil.rmtree(base_path / "2")
    wait_for(lambda: server.is_available(1), "version 1")
    wait_for(lambda: server.has_ended(2), "version 2 is unloaded")
    assert server.predict_x() == ([11.0], 1)


def test_model_without_versions_is_not_found(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    shutil.rmtree(base_path / "1")
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
    with raises_rpc_error("NOT_FOUND", "Servable not found for request: Latest(m)"):
        server.predict_x()
    publish(base_path, 1)
    wait_for(lambda: server.is_available(1), "version 1 is available again")
    assert server.predict_x() == ([11.0], 1)


def test_only_removed_versions_are_unloaded(base_path: Path, tmp_path: Path, serve: Serve) -> None:
    for version in (1, 2, 3):
        publish(base_path, version)
    config = tmp_path / "models.config"
    config.write_text(models_config(model_config(base_path, "model_version_policy { all {} }")))
    server = serve(f"--model_config_file={config}")
    wait_for(lambda: set(server.states().values()) == {"AVAILABLE"}, "all versions")
    shutil.rmtree(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 is unloaded")
    assert server.states() == {3: "AVAILABLE", 2: "END", 1: "AVAILABLE"}
    assert server.predict_x(version=1) == ([11.0], 1)
    with raises_rpc_error("NOT_FOUND", "Servable not found for request: Specific(m, 2)"):
        server.predict_x(version=2)


def test_symlinked_version_is_served(base_path: Path, tmp_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    version = publish(tmp_path / "elsewhere", 5)
    (base_path / "5").symlink_to(version)
    wait_for(lambda: server.is_available(5), "version 5")
    assert server.predict_x() == ([15.0], 5)


def _write_file(path: Path) -> None:
    path.write_text("not a directory")


def _make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _make_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_write_file, _make_dangling_link, _make_link_to_itself])
def test_version_that_is_no_directory_leaves_the_old_one_serving(
    base_path: Path, serve: Serve, make: Callable[[Path], None]
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    make(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert error.error_code == 5  # NOT_FOUND
    assert str(base_path / "2") in error.error_message
    assert server.predict_x() == ([11.0], 1)


def _move(base_path: Path, moved: Path) -> None:
    base_path.rename(moved)


def _replace_by_file(base_path: Path, moved: Path) -> None:
    base_path.rename(moved)
    base_path.write_text("not a directory")


@pytest.mark.parametrize("hide", [_move, _replace_by_file])
def test_versions_keep_serving_while_their_base_path_cannot_be_listed(
    base_path: Path, tmp_path: Path, serve: Serve, hide: Callable[[Path, Path], None]
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    moved = tmp_path / "moved"
    hide(base_path, moved)
    message = f"cannot list base path {base_path}"
    wait_for(lambda: message in server.running.output(), "the error is logged")
    time.sleep(0.3)
    assert server.predict_x() == ([11.0], 1)
    assert server.running.output().count(message) == 1  # not once per poll
    base_path.unlink(missing_ok=True)
    moved.rename(base_path)
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2")
