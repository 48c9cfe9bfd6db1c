"""Several model servers behind one client, which may disagree or not answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import requests

from client.serving.pool import ServerPool
from tests.conftest import Starter
from tests.support import affine, processes
from tests.support.callers import Callers
from tests.support.processes import Running
from tests.support.refusing import RefusingProxy

X = 3.0
BODY = json.dumps({"instances": [X]}).encode()


def find_error(status: int, headers: dict[str, str], body: bytes) -> str:
    """Return what is wrong with a response; each version adds its own number to the output."""
    if status != 200:
        return body.decode()
    version = float(headers["x-model-version"])
    answer = json.loads(body)["predictions"]
    return "" if answer == [10 * X + version] else f"version {version}: {answer}"


def serve(starter: Starter, *flags: str) -> Running:
    return starter.model_server("--file_system_poll_wait_seconds=0.2", *flags)


def start_client(starter: Starter, servers: list[Running], workers: int = 1) -> Running:
    for server in servers:
        processes.wait_for(lambda s=server: processes.is_serving(s.address), "it serves")  # type: ignore[misc]
    addresses = ",".join(server.address for server in servers)
    return starter.client(addresses, CLIENT_MODEL="m", CLIENT_WORKERS=str(workers))


def wait_for_answers(callers: Callers, answers: int) -> None:
    target = callers.ok_count + answers
    processes.wait_for(
        lambda: callers.ok_count >= target or callers.faults, f"{answers} more answers", 60
    )


def test_one_caller_is_answered_by_both_servers(tmp_path: Path, starter: Starter) -> None:
    servers = []
    for version in (1, 2):
        affine.publish(tmp_path / f"{version}/m", version)
        base = f"--model_base_path={tmp_path / f'{version}/m'}"
        servers.append(serve(starter, "--model_name=m", base))
    url = f"{start_client(starter, servers).address}/v1/models/m:predict"
    responses = [requests.post(url, data=BODY, timeout=10) for _ in range(40)]
    versions = [response.headers["X-Model-Version"] for response in responses]
    assert min(versions.count("1"), versions.count("2")) >= 10, versions


def test_server_is_avoided_for_seconds_only_if_most_calls_are_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def second_fraction(seconds: list[float]) -> float:
        """Return the fraction of calls the second server gets after calls of these durations."""
        pool = ServerPool("127.0.0.1:1,127.0.0.1:2", None)
        first, second = pool.servers
        for duration in seconds:
            pool.observe(first, "Predict", grpc.StatusCode.OK, 0.001)
            pool.observe(second, "Predict", grpc.StatusCode.OK, duration)
        nonlocal now
        picked = [pool.pick() for _ in range(100)]
        now += 10
        later = [pool.pick() for _ in range(100)]
        await pool.close()
        assert later.count(second) == 50
        return picked.count(second) / 100

    assert asyncio.run(second_fraction([0.5])) == 0.5
    assert asyncio.run(second_fraction([0.5, 0.5, 0.001, 0.5, 0.5])) == 0.5
    assert asyncio.run(second_fraction([0.001] * 9 + [0.5] * 4)) == 0.5
    assert asyncio.run(second_fraction([0.5] * 9 + [0.001] * 4)) == 0
    assert asyncio.run(second_fraction([0.003] * 9)) == 0.5
    assert asyncio.run(second_fraction([0.03] * 5)) == 0


@pytest.mark.parametrize("concurrency", [1, 8])
def test_slow_server_gets_fewer_calls(tmp_path: Path, starter: Starter, concurrency: int) -> None:
    servers = []
    for version, seconds in ((1, 0.0), (2, 0.1)):
        affine.publish(tmp_path / f"{version}/m", version, seconds)
        base = f"--model_base_path={tmp_path / f'{version}/m'}"
        servers.append(serve(starter, "--model_name=m", base))
    url = f"{start_client(starter, servers).address}/v1/models/m:predict"
    versions: Counter[str] = Counter()

    def count(status: int, headers: dict[str, str], body: bytes) -> str:
        versions[headers.get("x-model-version", "")] += 1
        return find_error(status, headers, body)

    with Callers(url, BODY, count, concurrency) as callers:
        wait_for_answers(callers, 300)
    assert callers.faults == {}
    assert 1 <= versions["2"] < 0.2 * versions["1"], versions


@pytest.mark.parametrize("workers", [1, 2])
def test_staggered_version_changes_cause_no_failures(
    tmp_path: Path, starter: Starter, workers: int
) -> None:
    bases = [tmp_path / "a/m", tmp_path / "b/m"]
    for base in bases:
        affine.publish(base, 1)
    servers = [serve(starter, "--model_name=m", f"--model_base_path={base}") for base in bases]
    client = start_client(starter, servers, workers)
    url = f"{client.address}/v1/models/m:predict"
    with Callers(url, BODY, find_error, 16) as callers:
        wait_for_answers(callers, 500)
        for version in (2, 3):
            for base in bases:
                affine.publish(base, version)
                wait_for_answers(callers, 1500)
            for base in reversed(bases):  # and back
                shutil.rmtree(base / str(version))
                wait_for_answers(callers, 1000)
    assert callers.faults == {}
    assert callers.ok_count >= 10_000


@pytest.mark.parametrize("workers", [1, 2])
def test_staggered_label_changes_cause_no_failures(
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
    client = start_client(starter, servers, workers)
    url = f"{client.address}/v1/models/m/labels/stable:predict"
    with Callers(url, BODY, find_error, 16) as callers:
        wait_for_answers(callers, 500)
        for stable in (2, 1, 2):
            for file, base in files:
                new = file.with_suffix(".new")
                new.write_text(config(base, stable))
                new.replace(file)
                time.sleep(0.5)
                wait_for_answers(callers, 500)
    assert callers.faults == {}


def disturb_one_server(
    tmp_path: Path, starter: Starter, disturb: Callable[[Running], None], seconds: float
) -> tuple[Callers, int]:
    """Disturb one of two servers; return the callers and the number of answers meanwhile."""
    affine.publish(tmp_path / "m", 1)
    flags = ("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    servers = [serve(starter, *flags) for _ in range(2)]
    client = start_client(starter, servers)
    with Callers(f"{client.address}/v1/models/m:predict", BODY, find_error, 16) as callers:
        wait_for_answers(callers, 500)
        before = callers.ok_count
        disturb(servers[1])
        time.sleep(seconds)
        during = callers.ok_count - before
        wait_for_answers(callers, 100)
    return callers, during


def test_stalled_server_is_left_out(tmp_path: Path, starter: Starter) -> None:
    stopped: list[int] = []

    def stall(server: Running) -> None:
        os.kill(server.process.pid, signal.SIGSTOP)
        stopped.append(server.process.pid)

    try:
        callers, during = disturb_one_server(tmp_path, starter, stall, 6)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert callers.fault_count <= 0.01 * callers.ok_count
    assert during > 500


def test_killed_server_causes_no_failures(tmp_path: Path, starter: Starter) -> None:
    callers, during = disturb_one_server(tmp_path, starter, lambda server: server.process.kill(), 2)
    assert callers.faults == {}
    assert during > 100


# A stopping server cancels its calls.
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_refusing_server_is_left_out_until_a_probe_succeeds(
    tmp_path: Path, starter: Starter, code: grpc.StatusCode
) -> None:
    affine.publish(tmp_path / "1/m", 1)
    affine.publish(tmp_path / "2/m", 2)
    servers = [
        serve(starter, "--model_name=m", f"--model_base_path={tmp_path / f'{number}/m'}")
        for number in (1, 2)
    ]
    versions: Counter[str] = Counter()

    def count(status: int, headers: dict[str, str], body: bytes) -> str:
        versions[headers.get("x-model-version", "")] += 1
        return find_error(status, headers, body)

    with RefusingProxy(servers[1].address) as proxy:
        client = start_client(
            starter, [servers[0], Running(servers[1].process, servers[1].log, proxy.address)]
        )
        with Callers(f"{client.address}/v1/models/m:predict", BODY, count, 8) as callers:
            wait_for_answers(callers, 200)
            assert versions["2"] > 0
            proxy.code, proxy.is_refusing = code, True
            processes.wait_for(lambda: proxy.refused_calls["Predict"], "calls are refused")
            # gRPC retries a call twice; calls that were in flight together may all be refused.
            processes.wait_for(lambda: proxy.refused_calls["GetModelStatus"] >= 2, "it is probed")
            predicted, probed = (
                proxy.refused_calls["Predict"],
                proxy.refused_calls["GetModelStatus"],
            )
            wait_for_answers(callers, 300)
            time.sleep(1)
            assert proxy.refused_calls["Predict"] == predicted
            assert proxy.refused_calls["GetModelStatus"] > probed
            proxy.is_refusing = False
            before = versions["2"]
            processes.wait_for(lambda: versions["2"] > before, "it is called again")
    assert callers.faults == {}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/predict", b"x\n3\n"),  # a table
        ("GET", "/v1/models/m/metadata", b""),
        ("GET", "/v1/models/m", b""),
    ],
)
def test_requests_are_retried_if_a_server_is_stopping(
    tmp_path: Path, starter: Starter, method: str, path: str, body: bytes
) -> None:
    affine.publish(tmp_path / "m", 1)
    base = f"--model_base_path={tmp_path / 'm'}"
    servers = [serve(starter, "--model_name=m", base) for _ in range(2)]
    with RefusingProxy(servers[1].address) as proxy:
        proxied = Running(servers[1].process, servers[1].log, proxy.address)
        url = f"{start_client(starter, [servers[0], proxied]).address}{path}"
        proxy.code, proxy.is_refusing = grpc.StatusCode.CANCELLED, True
        for _ in range(4):
            headers = {"Content-Type": "text/csv"}
            response = requests.request(method, url, data=body, headers=headers, timeout=20)
            assert response.status_code == 200, response.text
        assert proxy.refused_calls
