"""The rollout files: read whole or refused, one writer, and no moment at which a kill hurts."""

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


def test_a_controller_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.rollout.killed", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_one_of_two_controllers_wins(site: Site) -> None:
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
        problems = list(pool.map(start, range(2, 10)))
    winner = site.state()["canary"]
    assert problems.index("") == winner - 2
    assert sum("is in progress" in problem for problem in problems) == 7
    assert [each["generation"] for each in site.history()] == [1, 2]


def test_a_model_is_watched_once(site: Site) -> None:
    site("init")
    with Store(site.directory).watching("m"):
        assert "already watches m" in site.refused("watch")
    # Other commands work while it is watched.
    assert "no rollout is in progress; version 1 is stable" in site.refused("abort")


BAD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "not JSON": (b"{", "m.json is not JSON"),
    "empty": (b"", "m.json is not JSON"),
    "bytes": (b"\xff\xfe", "m.json is not JSON"),
    "not an object": (b"[]", "expected a JSON object, got list"),
    "of a later release": ({"format": 2}, "expected format 1, got 2; a later release wrote it"),
    "without a format": ({"format": None}, "expected format 1, got None"),
    "of another model": ({"model": "other"}, "is for model 'other', expected 'm'"),
    "a wrong type": ({"stable": "1"}, "stable: expected a non-negative integer, got '1'"),
    "a wrong share": ({"percent": 101}, "percent: expected 0 to 100, got 101"),
    "no share": ({"percent": float("nan")}, "percent: expected a number, got nan"),
    "a wrong phase": ({"phase": "x"}, "phase: expected one of idle, loading"),
    "no candidate": ({"phase": "canary"}, "canary None contradicts phase canary"),
    "no step": (
        {"phase": "canary", "canary": 2, "step": 1},
        "step 1 is not one of the 0 steps",
    ),
    "a time without offset": ({"time": "2026-01-01T00:00:00"}, "time: expected an ISO 8601 time"),
    "from the future": (
        {"time": (utc_now() + timedelta(days=1)).isoformat()},
        "check this machine's clock",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_rollout_file_is_a_one_line_error_and_stays(site: Site, case: str) -> None:
    content, expected = BAD[case]
    site("init")
    path = site.directory / "m.json"
    if isinstance(content, dict):
        content = json.dumps(site.state() | content).encode()
    path.write_bytes(content)
    config = site.config
    for command in ("status", "init", "abort", "promote", "rollback", "watch"):
        assert expected in site.refused(command), command
    assert (path.read_bytes(), site.config) == (content, config)


def test_a_field_that_is_missing_is_named(site: Site) -> None:
    site("init")
    for name in site.state():
        kept: dict[str, Any] = {key: value for key, value in site.state().items() if key != name}
        before = (site.directory / "m.json").read_bytes()
        (site.directory / "m.json").write_text(json.dumps(kept))
        assert name in site.refused("abort")
        (site.directory / "m.json").write_bytes(before)


def test_a_torn_line_of_the_history_is_left_alone(site: Site) -> None:
    site("init")
    history = site.directory / "m.history.ndjson"
    whole = history.read_text()
    history.write_text(whole + '{"generation": 2, "pha')
    site("init")
    lines = history.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["generation"] == 1


def test_a_state_that_starts_anew_is_in_the_history(site: Site) -> None:
    site("init")
    (site.directory / "m.json").unlink()
    site.publish(2)
    site("init")
    assert [(each["generation"], each["stable"]) for each in site.history()] == [(1, 1), (1, 2)]


def test_a_long_state_is_in_the_history_once(site: Site) -> None:
    site("init")
    long = site.state() | {"generation": 2, "reason": "x" * 100_000}
    (site.directory / "m.json").write_text(json.dumps(long))
    site("init")
    site("init")
    assert [each["generation"] for each in site.history()] == [1, 2]


def test_a_model_config_file_that_is_not_utf_8_is_replaced(site: Site) -> None:
    site("init")
    config = site.config
    (site.directory / "models.config").write_bytes(b"\xff")
    site("init")
    assert site.config == config


@pytest.mark.parametrize("command", ["init", "abort", "watch"])
def test_a_directory_that_cannot_be_written_is_a_one_line_error(site: Site, command: str) -> None:
    # Nobody can create files there, whatever their rights.
    state = "--state=/proc/rollout"
    assert "cannot write /proc/rollout" in site.refused(command, state)
    assert not (site.models / ".rollout").exists()


@pytest.mark.parametrize("command", ["init", "watch"])
def test_a_directory_that_cannot_be_locked_is_a_one_line_error(
    site: Site, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert f"cannot lock {site.directory}/" in site.refused(command)


def test_impossible_versions_and_shares_are_refused(site: Site) -> None:
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
        assert "Invalid value" in site.refused("start", option, status=2)
    for option in ("--steps=5", "--manual"):
        assert "No such option" in site.refused("shadow", option, status=2)
    assert "Invalid value" in site.refused("start", "x", status=2)
    assert "Invalid value" in site.refused("abort", "--model=../m", status=2)
    for url in ("ftp://there", "http://there", "http://a..b:80", "http://a b:80", "http://[::1:80"):
        for option in ("--servers", "--gateways"):
            problem = site.refused("abort", f"{option}={url}", status=2)
            assert f"'{option}': expected http://host:port, got {url!r}" in problem
    site.servers[:] = ["http://127.0.0.1:9"]
    assert "no model server answers (--servers): 127.0.0.1:9" in site.refused("start", "2")
    assert "has no version; expected a SavedModel" in site.refused("init", "--model=none")
    assert not site.directory.exists()


def test_status_shows_brackets_as_they_are(site: Site) -> None:
    site("init")
    reason = "rolled back version 2: cannot read [/models/m]"
    (site.directory / "m.json").write_text(json.dumps(site.state() | {"reason": reason}))
    site.servers.append("http://[::1]:9")
    shown = site("status")
    assert reason in shown
    assert "[::1]:9" in shown


def test_version_0_can_be_rolled_back_to() -> None:
    state = Rollout("m", "/models/m", stable=1, seen=1, since=utc_now(), time=utc_now(), previous=0)
    assert state.roll_back(utc_now(), "").stable == 0


def test_the_previous_version_stays_loaded_for_its_calls_after_its_own_rollout() -> None:
    now = utc_now()
    state = Rollout("m", "/models/m", stable=2, seen=2, since=now, time=now, previous=1)
    ended = state.start(now, "", 1, steps=(50.0,)).move_to_step(now, "", 0).roll_back(now, "")
    assert (ended.previous, ended.retiring, ended.versions) == (None, (1,), [1, 2])
