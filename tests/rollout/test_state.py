"""The rollout files: validation, concurrent writers, and recovery from kills."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollout import actions
from rollout.controller import Controller, utc_now
from rollout.errors import RolloutError
from rollout.state import Rollout
from rollout.store import Store
from tests.rollout.conftest import Site
from tests.support.processes import ROOT


def test_controller_recovers_from_a_kill_at_any_moment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.rollout.kill_controller", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50


def test_only_one_of_concurrent_starts_succeeds(site: Site) -> None:
    site("init")

    def start(version: int) -> str:
        controller = Controller(Store(site.directory), site.models, "m", [], [])
        try:
            controller.change(
                lambda state, now: actions.start(
                    state, version, range(10), now, "", steps=(5.0,), bake=1.0
                )
            )
        except RolloutError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        messages = list(pool.map(start, range(2, 10)))
    winner = site.state()["canary"]
    assert messages.index("") == winner - 2
    assert sum("is in progress" in message for message in messages) == 7
    assert [state["generation"] for state in site.history()] == [1, 2]


def test_model_is_watched_by_one_process(site: Site) -> None:
    site("init")
    with Store(site.directory).watching("m"):
        assert "already watches m" in site.expect_error("watch")
    # Other commands work while it is watched.
    assert "no rollout is in progress; version 1 is stable" in site.expect_error("abort")


INVALID_FILES: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "not JSON": (b"{", "m.json is not JSON"),
    "empty": (b"", "m.json is not JSON"),
    "not UTF-8": (b"\xff\xfe", "m.json is not JSON"),
    "not an object": (b"[]", "expected a JSON object, got list"),
    "later format": ({"format": 2}, "expected format 1, got 2; a later release wrote it"),
    "no format": ({"format": None}, "expected format 1, got None"),
    "another model": ({"model": "other"}, "is for model 'other', expected 'm'"),
    "wrong type": ({"stable": "1"}, "stable: expected a non-negative integer, got '1'"),
    "percent out of range": ({"percent": 101}, "percent: expected 0 to 100, got 101"),
    "percent not a number": ({"percent": float("nan")}, "percent: expected a number, got nan"),
    "unknown phase": ({"phase": "x"}, "phase: expected one of idle, loading"),
    "no canary": ({"phase": "canary"}, "canary None contradicts phase canary"),
    "step out of range": (
        {"phase": "canary", "canary": 2, "step": 1},
        "step 1 is not one of the 0 steps",
    ),
    "time without offset": ({"time": "2026-01-01T00:00:00"}, "time: expected an ISO 8601 time"),
    "time in the future": (
        {"time": (utc_now() + timedelta(days=1)).isoformat()},
        "check this machine's clock",
    ),
}


@pytest.mark.parametrize("case", INVALID_FILES)
def test_invalid_rollout_file_is_rejected_in_one_line_and_kept(site: Site, case: str) -> None:
    content, expected = INVALID_FILES[case]
    site("init")
    path = site.directory / "m.json"
    if isinstance(content, dict):
        content = json.dumps(site.state() | content).encode()
    path.write_bytes(content)
    config = site.config
    for command in ("status", "init", "abort", "promote", "rollback", "watch"):
        assert expected in site.expect_error(command), command
    assert (path.read_bytes(), site.config) == (content, config)


def test_missing_field_is_named(site: Site) -> None:
    site("init")
    for name in site.state():
        fields: dict[str, Any] = {key: value for key, value in site.state().items() if key != name}
        before = (site.directory / "m.json").read_bytes()
        (site.directory / "m.json").write_text(json.dumps(fields))
        assert name in site.expect_error("abort")
        (site.directory / "m.json").write_bytes(before)


def test_history_continues_after_a_torn_line(site: Site) -> None:
    site("init")
    history = site.directory / "m.history.ndjson"
    intact = history.read_text()
    history.write_text(intact + '{"generation": 2, "pha')
    site("init")
    lines = history.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["generation"] == 1


def test_recreated_state_is_added_to_the_history(site: Site) -> None:
    site("init")
    (site.directory / "m.json").unlink()
    site.publish(2)
    site("init")
    assert [(state["generation"], state["stable"]) for state in site.history()] == [(1, 1), (1, 2)]


def test_long_state_is_added_to_the_history_once(site: Site) -> None:
    site("init")
    long = site.state() | {"generation": 2, "reason": "x" * 100_000}
    (site.directory / "m.json").write_text(json.dumps(long))
    site("init")
    site("init")
    assert [state["generation"] for state in site.history()] == [1, 2]


def test_model_config_file_that_is_not_utf_8_is_replaced(site: Site) -> None:
    site("init")
    config = site.config
    (site.directory / "models.config").write_bytes(b"\xff")
    site("init")
    assert site.config == config


@pytest.mark.parametrize("command", ["init", "abort", "watch"])
def test_unwritable_directory_is_reported_in_one_line(site: Site, command: str) -> None:
    # Not even root can create files there.
    state = "--state=/proc/rollout"
    assert "cannot write /proc/rollout" in site.expect_error(command, state)
    assert not (site.models / ".rollout").exists()


@pytest.mark.parametrize("command", ["init", "watch"])
def test_directory_that_cannot_be_locked_is_reported_in_one_line(
    site: Site, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert f"cannot lock {site.directory}/" in site.expect_error(command)


def test_invalid_options_are_rejected(site: Site) -> None:
    for option in (
        "--percent=0",
        "--percent=100",
        "--percent=0.004",
        "--percent=-1",
        "--percent=x",
        "--percent=nan",
        "--percent=inf",
        "--steps=5,5",
        "--steps=50,5",
        "--steps=5,100",
        "--steps=5,99.996",
        "--steps=",
        "--bake=soon",
        "--hold=99999999999999999999",
        "--tolerance=0",
        "--tolerance=nan",
        "--steps=nan",
    ):
        assert "Invalid value" in site.expect_error("start", option, status=2)
    for option in ("--steps=5", "--manual"):
        assert "No such option" in site.expect_error("shadow", option, status=2)
    assert "Invalid value" in site.expect_error("start", "x", status=2)
    assert "Invalid value" in site.expect_error("abort", "--model=../m", status=2)
    for url in (
        "ftp://there",
        "http://there",
        "http://a..b:80",
        "http://a b:80",
        "http://[::1:80",
        "http://there:80/prefix",
        "http://there:80/?query",
        "http://there:80#fragment",
    ):
        for option in ("--servers", "--gateways"):
            error = site.expect_error("abort", f"{option}={url}", status=2)
            assert f"'{option}': expected http://host:port, got {url!r}" in error
    site.servers[:] = ["http://127.0.0.1:9"]
    assert "no model server answers (--servers): 127.0.0.1:9" in site.expect_error("start", "2")
    assert "has no version; expected a SavedModel" in site.expect_error("init", "--model=none")
    assert not site.directory.exists()


def test_status_prints_brackets_literally(site: Site) -> None:
    site("init")
    reason = "rolled back version 2: cannot read [/models/m]"
    (site.directory / "m.json").write_text(json.dumps(site.state() | {"reason": reason}))
    site.servers.append("http://[::1]:9")
    output = site("status")
    assert reason in output
    assert "[::1]:9" in output


def test_rollback_can_restore_version_0() -> None:
    state = Rollout("m", "/models/m", stable=1, seen=1, since=utc_now(), time=utc_now(), previous=0)
    assert state.roll_back(utc_now(), "").stable == 0


def test_rolled_back_previous_version_stays_loaded_while_retiring() -> None:
    now = utc_now()
    state = Rollout("m", "/models/m", stable=2, seen=2, since=now, time=now, previous=1)
    ended = state.start(now, "", 1, steps=(50.0,)).move_to_step(now, "", 0).roll_back(now, "")
    assert (ended.previous, ended.retiring, ended.versions) == (None, (1,), [1, 2])
