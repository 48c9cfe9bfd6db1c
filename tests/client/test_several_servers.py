"""Several model servers behind one client: they need not agree, and one may not answer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.conftest import Starter
from tests.support import affine, processes
from tests.support.callers import Callers
from tests.support.processes import Running

X = 3.0
BODY = json.dumps({"instances": [X]}).encode()


def is_affine(status: int, headers: dict[str, str], body: bytes) -> str:
    """Each version adds its own number, so it can be told who has computed an answer."""
    if status != 200:
        return body.decode()
    version = float(headers["x-model-version"])
    answer = json.loads(body)["predictions"]
    return "" if answer == [10 * X + version] else f"version {version}: {answer}"


def serve(starter: Starter, *flags: str) -> Running:
    return starter.model_server("--file_system_poll_wait_seconds=0.2", *flags)


def client_of(starter: Starter, servers: list[Running], workers: int = 1) -> Running:
    for server in servers:
        processes.wait_for(lambda s=server: processes.is_serving(s.address), "it serves")  # type: ignore[misc]
    addresses = ",".join(server.address for server in servers)
    return starter.client(addresses, CLIENT_MODEL="m", CLIENT_WORKERS=str(workers))


def until(callers: Callers, answers: int) -> None:
    wanted = callers.answered + answers
    processes.wait_for(
        lambda: callers.answered >= wanted or callers.wrong, f"{answers} more answers", 60
    )


def test_one_caller_is_answered_by_both_servers_in_turns(tmp_path: Path, starter: Starter) -> None:
    servers = []
    for version in (1, 2):
        affine.publish(tmp_path / f"{version}/m", version)
        base = f"--model_base_path={tmp_path / f'{version}/m'}"
        servers.append(serve(starter, "--model_name=m", base))
    url = f"{client_of(starter, servers).address}/v1/models/m:predict"
    replies = [requests.post(url, data=BODY, timeout=10) for _ in range(20)]
    versions = [reply.headers["X-Model-Version"] for reply in replies]
    assert min(versions.count("1"), versions.count("2")) >= 8, versions


@pytest.mark.parametrize("workers", [1, 2])
def test_servers_that_learn_of_a_version_at_different_moments_fail_nobody(
    tmp_path: Path, starter: Starter, workers: int
) -> None:
    bases = [tmp_path / "a/m", tmp_path / "b/m"]
    for base in bases:
        affine.publish(base, 1)
    servers = [serve(starter, "--model_name=m", f"--model_base_path={base}") for base in bases]
    client = client_of(starter, servers, workers)
    url = f"{client.address}/v1/models/m:predict"
    with Callers(url, BODY, is_affine, 16) as callers:
        until(callers, 500)
        for version in (2, 3):
            for base in bases:
                affine.publish(base, version)
                until(callers, 1500)
            for base in reversed(bases):  # and back
                shutil.rmtree(base / str(version))
                until(callers, 1000)
    assert callers.failures() == {}
    assert callers.answered >= 10_000


@pytest.mark.parametrize("workers", [1, 2])
def test_labels_that_move_at_different_moments_fail_nobody(
    tmp_path: Path, starter: Starter, workers: int
) -> None:
    def config(base: Path, stable: int) -> str:
        return (
            f'model_config_list {{ config {{ name: "m" base_path: "{base}" '
            'model_platform: "tensorflow" model_version_policy { all {} } '
            f'version_labels {{ key: "stable" value: {stable} }} }} }}'
        )

    files, servers = [], []
    for name in ("a", "b"):
        base = tmp_path / name / "m"
        affine.publish(base, 1)
        affine.publish(base, 2)
        files.append((tmp_path / f"{name}.config", base))
        files[-1][0].write_text(config(base, 1))
        servers.append(
            serve(
                starter,
                f"--model_config_file={files[-1][0]}",
                "--model_config_file_poll_wait_seconds=1",
                "--allow_version_labels_for_unavailable_models=true",
            )
        )
    client = client_of(starter, servers, workers)
    url = f"{client.address}/v1/models/m/labels/stable:predict"
    with Callers(url, BODY, is_affine, 16) as callers:
        until(callers, 500)
        for stable in (2, 1, 2):
            for file, base in files:
                new = file.with_suffix(".new")
                new.write_text(config(base, stable))
                new.replace(file)
                time.sleep(0.5)
                until(callers, 500)
    assert callers.failures() == {}


def with_one(
    tmp_path: Path, starter: Starter, act: Callable[[Running], None], seconds: float
) -> tuple[Callers, int]:
    """Do something to one of two servers; returns the callers, and the answers during that."""
    affine.publish(tmp_path / "m", 1)
    flags = ("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    servers = [serve(starter, *flags) for _ in range(2)]
    client = client_of(starter, servers)
    with Callers(f"{client.address}/v1/models/m:predict", BODY, is_affine, 16) as callers:
        until(callers, 500)
        before = callers.answered
        act(servers[1])
        time.sleep(seconds)
        during = callers.answered - before
        until(callers, 100)
    return callers, during


def test_a_server_that_stalls_is_left_out_until_it_answers(
    tmp_path: Path, starter: Starter
) -> None:
    stopped: list[int] = []

    def stall(server: Running) -> None:
        os.kill(server.process.pid, signal.SIGSTOP)
        stopped.append(server.process.pid)

    try:
        callers, during = with_one(tmp_path, starter, stall, 6)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert callers.outcomes["wrong"] <= 0.01 * callers.answered
    assert during > 500


def test_a_server_that_dies_fails_nobody(tmp_path: Path, starter: Starter) -> None:
    callers, during = with_one(tmp_path, starter, lambda server: server.process.kill(), 2)
    assert callers.failures() == {}
    assert during > 100
