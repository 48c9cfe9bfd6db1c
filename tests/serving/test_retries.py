"""Retries and time limits of loads."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import tensorflow as tf

from serving.core import server_core
from serving.core.manager import Manager, ManagerOptions
from serving.core.model_config import read_config_file
from serving.core.servable_harness import State
from serving.core.server_core import ServerCore
from serving.core.source import Source
from tests.serving.conftest import QUICK, FailedStart, Serve, config_flag, model_flags
from tests.serving.test_warmup import predict_log, write_records
from tests.support.affine import publish
from tests.support.caller import model_config, raises_rpc_error
from tests.support.processes import wait_for

MANY_RETRIES = ("--max_num_load_retries=1000", "--load_retry_interval_micros=100000")


def break_version(version: Path) -> None:
    (version / "saved_model.pb").rename(version / "saved_model.moved")


def repair_version(version: Path) -> None:
    (version / "saved_model.moved").rename(version / "saved_model.pb")


def publish_broken(base_path: Path, version: int) -> None:
    broken = publish(base_path.parent / "broken", version)
    break_version(broken)
    base_path.mkdir(exist_ok=True)
    broken.rename(base_path / str(version))


def log_time(log: str, event: str) -> float:
    """Return the time, in seconds, of the log line that contains an event."""
    (line,) = [line for line in log.splitlines() if event in line]
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def test_version_repaired_between_retries_replaces_the_old_one(
    base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), *MANY_RETRIES)
    publish_broken(base_path, 2)
    wait_for(lambda: "attempt 3 of 1001" in server.running.output(), "the third attempt")
    assert server.states() == {2: "LOADING", 1: "AVAILABLE"}
    assert server.predict_x() == ([11.0], 1)
    repair_version(base_path / "2")
    wait_for(lambda: server.is_available(2), "version 2")
    assert server.predict_x() == ([12.0], 2)
    assert server.statuses()[2].status.error_code == 0


def test_flag_sets_the_number_of_load_retries(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--max_num_load_retries=2")
    publish_broken(base_path, 2)
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    attempts = [f"attempt {number} of 3" for number in (1, 2, 3)]
    log = server.running.output()
    assert [log.count(attempt) for attempt in attempts] == [1, 1, 1]
    assert "does not appear to contain a SavedModel" in server.statuses()[2].status.error_message


def test_flag_sets_the_interval_between_attempts(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--load_retry_interval_micros=1500000")
    publish_broken(base_path, 2)
    wait_for(lambda: "attempt 1 of 2" in server.running.output(), "the first attempt")
    started = time.monotonic()
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    assert 1.2 < time.monotonic() - started < 5


def test_removed_version_is_not_retried(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), *MANY_RETRIES)
    publish_broken(base_path, 2)
    wait_for(lambda: "attempt 2 of 1001" in server.running.output(), "the second attempt")
    shutil.rmtree(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 is no longer retried")
    attempts = server.running.output().count("attempt")
    time.sleep(0.5)
    assert server.running.output().count("attempt") == attempts
    assert server.statuses()[2].status.error_code  # the status keeps the error


def test_load_timeout_does_not_block_later_versions(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--load_timeout_seconds=1", "--max_num_load_retries=0")
    hidden = publish(base_path.parent / "hidden", 2, seconds=60)
    write_records(hidden, [predict_log(x=tf.constant([1.0]))])
    hidden.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed", seconds=20)
    status = server.statuses()[2].status
    assert status.error_code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert status.error_message == f"cannot load {base_path / '2'}: no result within 1 s"
    assert server.predict_x() == ([11.0], 1)
    publish(base_path, 3)
    wait_for(lambda: server.is_available(3), "the next version")
    assert server.predict_x() == ([13.0], 3)


def test_requests_do_not_wait_for_a_timed_out_load_to_close(tmp_path: Path) -> None:
    may_load, closing, may_close = (threading.Event() for _ in range(3))

    def close() -> None:
        closing.set()
        may_close.wait(10)

    def load(name: str, version: int, path: Path) -> Any:
        may_load.wait(10)
        return SimpleNamespace(close=close)

    manager = Manager(load, ManagerOptions(max_num_load_retries=0, load_timeout=0.1))
    manager.aspire("m", {1: tmp_path})
    (failed,) = manager.wait_until_settled(["m"])
    assert failed.error is not None
    may_load.set()
    assert closing.wait(10)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(manager.is_available, "m")
        wait([request], 2)
        is_answered = request.done()
        may_close.set()
    assert is_answered


def test_other_models_load_while_one_is_retried(tmp_path: Path, serve: Serve) -> None:
    publish(tmp_path / "good", 1)
    publish(tmp_path / "bad", 1)
    models = (model_config(tmp_path / name) for name in ("good", "bad"))
    server = serve(config_flag(tmp_path, *models), *MANY_RETRIES)
    publish_broken(tmp_path / "bad", 2)
    wait_for(lambda: "attempt 2 of 1001" in server.running.output(), "the second attempt")
    publish(tmp_path / "good", 2)
    wait_for(lambda: server.is_available(2, "good"), "version 2 of the good model")
    assert server.states("bad") == {2: "LOADING", 1: "AVAILABLE"}


def test_port_opens_after_ten_seconds_while_a_first_load_is_retried(
    tmp_path: Path, serve: Serve
) -> None:
    publish(tmp_path / "good", 1)
    publish_broken(tmp_path / "bad", 1)
    models = (model_config(tmp_path / name) for name in ("bad", "good"))
    server = serve(config_flag(tmp_path, *models), *MANY_RETRIES)
    log = server.running.output()
    assert 8 < log_time(log, "Running gRPC ModelServer") - log_time(log, "attempt 1 of 1001") < 30
    assert server.predict_x(model="good") == ([11.0], 1)
    with raises_rpc_error("NOT_FOUND", "Servable not found for request: Latest(bad)"):
        server.predict_x(model="bad")
    assert server.states("bad") == {1: "LOADING"}
    repair_version(tmp_path / "bad" / "1")
    wait_for(lambda: server.is_available(1, "bad"), "the repaired model")


def check_start_waits_for_slow_model(
    folder: Path, core: ServerCore, other: str, stopped: Callable[[], bool]
) -> None:
    """Start a server with two models, and check that "slow" is available afterwards."""
    for name in (other, "slow"):
        (folder / name / "1").mkdir(parents=True)
    config_flag(folder, *(model_config(folder / name) for name in (other, "slow")))
    core.start(read_config_file(folder / "models.config"), stopped)
    assert core.is_available("slow")


def test_port_waits_for_other_models_after_a_successful_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, checks = itertools.count(), itertools.count()
    may_load = threading.Event()

    def load(name: str, version: int, path: Path) -> Any:
        if name == "slow":
            may_load.wait(60)
        elif next(attempts) == 0:
            raise ValueError
        return SimpleNamespace(close=lambda: None)

    def on_config() -> None:
        manager.wait_until_settled(["retried"])

    def stopped() -> bool:
        if next(checks) == 5:
            may_load.set()
        return False

    monkeypatch.setattr(server_core, "MAX_RETRY_WAIT_SECONDS", 0.0)
    manager = Manager(load, ManagerOptions(load_retry_interval=0))
    core = ServerCore(manager, Source(manager.aspire, 0), on_config=on_config)
    check_start_waits_for_slow_model(tmp_path, core, "retried", stopped)
    manager.close(20)


def test_failed_first_load_exits_with_the_reason(
    base_path: Path, failed_start: FailedStart
) -> None:
    publish_broken(base_path, 1)
    log = failed_start(*QUICK, *model_flags(base_path))
    assert "Error: UNKNOWN: 1 model(s) did not become available: {{{name: m version: 1}" in log
    assert f"Specified file path: {base_path / '1'}" in log


def test_failed_version_loads_once_restored_and_repaired(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    shutil.rmtree(base_path / "1")
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
    publish_broken(base_path, 2)
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    (base_path / "2").rename(base_path.parent / "moved")
    time.sleep(0.5)  # several polls
    assert server.has_ended(2)
    repair_version(base_path.parent / "moved")
    (base_path.parent / "moved").rename(base_path / "2")
    wait_for(lambda: server.is_available(2), "version 2")
    assert server.predict_x() == ([12.0], 2)


def test_failed_version_loads_once_replaced_under_policy_all(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    entry = model_config(base_path, "model_version_policy { all {} }")
    server = serve(config_flag(base_path.parent, entry))
    publish_broken(base_path, 2)
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    shutil.rmtree(base_path / "2")
    time.sleep(0.5)
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2")
    assert server.states() == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_newest_old_version_keeps_serving_if_all_new_ones_fail(
    base_path: Path, serve: Serve
) -> None:
    for number in (1, 2):
        publish(base_path, number)
    entry = model_config(base_path, "model_version_policy { latest { num_versions: 2 } }")
    server = serve(config_flag(base_path.parent, entry))
    wait_for(lambda: server.is_available(1), "version 1")
    for number in (3, 4):
        publish_broken(base_path, number)
    wait_for(lambda: server.has_ended(3) and server.has_ended(4), "both have failed")
    wait_for(lambda: server.has_ended(1), "version 1 is unloaded")
    assert server.predict_x() == ([12.0], 2)


def test_port_opens_early_if_an_older_version_is_available(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    publish_broken(base_path, 2)
    entry = model_config(base_path, "model_version_policy { all {} }")
    server = serve(config_flag(base_path.parent, entry), "--load_retry_interval_micros=60000000")
    log = server.running.output()
    assert log_time(log, "Running gRPC ModelServer") - log_time(log, "attempt 1 of 2") < 5
    assert server.predict_x() == ([11.0], 1)
    assert server.states() == {2: "LOADING", 1: "AVAILABLE"}


def test_port_does_not_wait_for_the_second_attempt(tmp_path: Path, serve: Serve) -> None:
    publish(tmp_path / "good", 1)
    publish_broken(tmp_path / "bad", 1)
    models = (model_config(tmp_path / name) for name in ("bad", "good"))
    server = serve(config_flag(tmp_path, *models), "--load_retry_interval_micros=60000000")
    log = server.running.output()
    assert log_time(log, "Running gRPC ModelServer") - log_time(log, "attempt 1 of 2") < 13
    assert server.predict_x(model="good") == ([11.0], 1)


def test_the_port_waits_for_a_first_load_while_another_model_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = itertools.count()
    retried, may_load = threading.Event(), threading.Event()

    def load(name: str, version: int, path: Path) -> Any:
        if name == "bad":
            retried.set()
            raise ValueError
        may_load.wait(60)
        return SimpleNamespace(close=lambda: None)

    def stopped() -> bool:
        retried.wait(60)
        if next(checks) == 5:
            may_load.set()
        return False

    monkeypatch.setattr(server_core, "MAX_RETRY_WAIT_SECONDS", 0.0)
    manager = Manager(load, ManagerOptions(load_retry_interval=60))
    core = ServerCore(manager, Source(manager.aspire, 0))
    check_start_waits_for_slow_model(tmp_path, core, "bad", stopped)
    manager.close(20)


def test_a_version_that_has_timed_out_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_out = threading.Event()

    def load(name: str, version: int, path: Path) -> Any:
        timed_out.wait(10)
        raise ValueError

    def log_error(message: str, *arguments: object) -> None:
        if "timed out" in message:  # until the failed load has scheduled a retry
            timed_out.set()
            wait_for(lambda: manager.harnesses("m")[0].last_error, "the load has failed")

    log = SimpleNamespace(error=log_error, debug=lambda *_: None)
    monkeypatch.setattr("serving.core.manager.log", log)
    manager = Manager(load, ManagerOptions(load_timeout=0.1, load_retry_interval=0.5))
    manager.aspire("m", {1: tmp_path})
    (failed,) = manager.wait_until_settled(["m"])
    assert failed.error is not None
    assert failed.error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    time.sleep(1)
    assert (failed.state, failed.attempts) == (State.END, 1)
