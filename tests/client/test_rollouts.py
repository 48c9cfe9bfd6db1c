"""Rollouts through a gateway: no caller sees a broken canary, and shadows delay nobody."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from client.inference.verified_servers import VerifiedServers
from client.observability.metrics import Metrics
from client.serving import pool
from client.serving.async_client import AsyncServingClient
from client.serving.deadlines import Deadline
from client.serving.flows import Target
from tests.client.test_tracing import Collector, attributes
from tests.conftest import Starter
from tests.support import canaries, forked, processes
from tests.support.callers import Callers
from tests.support.names import resolve
from tests.support.processes import Running
from tests.support.rollouts import write_rollout

X = 3.0
BODY = json.dumps({"instances": [X]}).encode()
STABLE, GOOD, RAISES, REFUSES, NANS, SLOW, FLIPS, WRONG, MISSING = range(1, 10)
# Canaries get a tenth of TIMEOUT, enough on a busy machine; SHORT_TIMEOUT is for one that hangs.
TIMEOUT, SHORT_TIMEOUT, SLEEP = 15.0, 4.0, 5.0
CONFIG = (
    'model_config_list {{ config {{ name: "m" base_path: "{}" model_platform: "tensorflow" '
    "model_version_policy {{ {} }} }} }}"
)


def find_inconsistency(status: int, headers: dict[str, str], body: bytes) -> str:
    """Return how a response contradicts its version and arm headers, or an empty string."""
    if status != 200:
        return body.decode()
    version, arm = int(headers["x-model-version"]), headers["x-model-arm"]
    if (arm == "canary") == (version == STABLE):
        return f"version {version} as {arm}"
    row = json.loads(body)["predictions"][0]
    is_correct = row["y"] == 10 * X + version and row["probability"] is not None
    return "" if is_correct else f"version {version}: {row}"


@dataclass
class Rollouts:
    """A gateway to a server with faulty versions, and its rollout file."""

    folder: Path
    client: Running
    generation: int = 1
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def url(self) -> str:
        return f"{self.client.address}/v1/models/m"

    def set(self, **state: Any) -> None:
        """Write a new state and wait until the gateway has read it."""
        self.generation += 1
        write_rollout(self.folder, "m", generation=self.generation, **state)
        self.wait_for("client_rollout_generation", self.generation)

    def metric(self, name: str, **labels: Any) -> float:
        """Return the sum of a metric's series with these labels."""
        text = self.session.get(f"{self.client.address}/metrics", timeout=10).text
        lines = (line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
        return sum(
            sample.value
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if all(sample.labels.get(label) == str(value) for label, value in labels.items())
        )

    def wait_for(self, name: str, minimum: float, **labels: Any) -> None:
        processes.wait_for(
            lambda: self.metric(name, **labels) >= minimum, f"{name} {labels} is {minimum}"
        )

    def post(self, path: str = ":predict", body: Any = BODY, **headers: str) -> requests.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(f"{self.url}{path}", data=body, headers=fields, timeout=20)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models") / "m"
    canaries.publish(base, STABLE)
    canaries.publish(base, GOOD, golden_error=0.0)
    canaries.publish(base, RAISES, fault=canaries.RAISE)
    canaries.publish(base, REFUSES, fault=canaries.REFUSE)
    canaries.publish(base, NANS, fault=canaries.NAN)
    canaries.publish(base, SLOW, seconds=SLEEP)
    canaries.publish(base, FLIPS, sign=-1)
    canaries.publish(base, WRONG, golden_error=1e-3)
    return base


@pytest.fixture(scope="module")
def server(base_path: Path) -> Iterator[str]:
    running = start_server(base_path.parent, base_path, "all {}")
    processes.wait_for(lambda: processes.is_serving(running.address), "the versions are loaded")
    yield running.address
    assert running.stop() == 0, running.output()


def start_server(folder: Path, base_path: Path, versions: str) -> Running:
    config = folder / "models.config"
    config.write_text(CONFIG.format(base_path, versions))
    flags = (f"--model_config_file={config}", "--grpc_max_threads=64")
    return forked.start_model_server(folder / "serving.log", *flags)


@pytest.fixture(scope="module")
def rollouts(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollouts]:
    folder = tmp_path_factory.mktemp("rollouts")
    write_rollout(folder, "m")
    running = start(server, folder)
    yield Rollouts(folder, running)
    assert running.stop() == 0, running.output()
    assert "Traceback" not in running.output()


def start(server: str, folder: Path, ready: bool = True, **settings: str) -> Running:
    return processes.start_client(
        folder / "client.log",
        server,
        ready=ready,
        CLIENT_MODEL="m",
        CLIENT_ROLLOUT=str(folder),
        CLIENT_STICKY_HEADER="X-User",
        **{"CLIENT_TIMEOUT": str(TIMEOUT), **settings},
    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def wait_until(callers: Callers, condition: Callable[[], object]) -> None:
    processes.wait_for(lambda: callers.faults or condition(), "the callers are answered", 60)


@pytest.mark.parametrize("canary", [RAISES, REFUSES, NANS, WRONG, MISSING])
def test_callers_do_not_see_a_broken_canary(rollouts: Rollouts, canary: int) -> None:
    check_broken_canary(rollouts, canary)


def test_callers_do_not_wait_for_a_canary_that_hangs(server: str, tmp_path: Path) -> None:
    write_rollout(tmp_path, "m")
    running = start(server, tmp_path, CLIENT_TIMEOUT=str(SHORT_TIMEOUT))
    try:
        check_broken_canary(Rollouts(tmp_path, running), SLOW)
    finally:
        assert running.stop() == 0, running.output()


def check_broken_canary(rollouts: Rollouts, canary: int) -> None:
    rollouts.set(canary=canary, percent=30)
    with Callers(f"{rollouts.url}:predict", BODY, find_inconsistency, 8) as callers:
        wait_until(callers, lambda: rollouts.metric("client_rollout_cutout", version=canary))
        target = callers.ok_count + 50
        wait_until(callers, lambda: callers.ok_count > target)
    assert callers.faults == {}
    counted = {"version": canary, "arm": "canary"}
    assert rollouts.metric("client_arm_requests_total", outcome="repeated", **counted) >= 10
    assert rollouts.metric("client_arm_requests_total", outcome="ok", **counted) == 0
    assert rollouts.metric("client_arm_calls_total", outcome="ok", **counted) == 0
    assert rollouts.metric("client_arm_calls_total", **counted) >= 10
    if canary == WRONG:
        golden = {"version": canary, "result": "wrong"}
        assert rollouts.metric("client_golden", **golden) == 1


def test_good_canary_gets_its_share(rollouts: Rollouts) -> None:
    rollouts.set(canary=GOOD, percent=20)
    counted = {"version": GOOD, "arm": "canary", "outcome": "ok"}
    with Callers(f"{rollouts.url}:predict", BODY, find_inconsistency, 8) as callers:
        wait_until(callers, lambda: callers.ok_count > 800)
    assert callers.faults == {}
    share = rollouts.metric("client_arm_requests_total", **counted) / callers.ok_count
    assert 0.15 < share < 0.25
    control = rollouts.metric(
        "client_arm_requests_total", version=STABLE, arm="control", outcome="ok"
    )
    assert control > 0.1 * callers.ok_count
    assert rollouts.metric("client_golden", version=GOOD, result="ok") == 1
    assert rollouts.metric("client_rollout_cutout") == 0
    stats = requests.get(f"{rollouts.client.address}/stats", timeout=10).json()
    assert {(arm["version"], arm["arm"]) for arm in stats["arms"]} >= {
        (1, "control"),
        (2, "canary"),
    }
    assert stats["rollout"]["canary"] == GOOD
    golden = {v["version"]: v["golden"] for v in stats["servers"][0]["versions"]}
    assert (golden[STABLE], golden[GOOD]) == ("none", "ok")


DIALECTS = {
    ":predict": BODY,
    ":explain": BODY,
    ":classify": json.dumps({"signature_name": "classification", "examples": [{"x": X}]}).encode(),
    ":regress": json.dumps({"signature_name": "regression", "examples": [{"x": X}]}).encode(),
    "/predict": BODY,
    "/explain": BODY,
    "/v2/models/m/infer": json.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [X]}]}
    ).encode(),
    "csv": b"x\n3\n",
    "ndjson": b'{"x": 3}\n',
}


def post_in_every_dialect(rollouts: Rollouts, arm: str) -> Iterator[tuple[str, requests.Response]]:
    """Yield each dialect and its response to a request for an arm."""
    for dialect, body in DIALECTS.items():
        content_type = {"csv": "text/csv", "ndjson": "application/x-ndjson"}.get(dialect)
        path = "/predict" if content_type else dialect
        url = rollouts.url if path.startswith(":") else rollouts.client.address
        headers = {"X-Model-Arm": arm, "Content-Type": content_type or "application/json"}
        response = requests.post(f"{url}{path}", body, headers=headers, timeout=20)
        assert response.status_code == 200, (dialect, response.text)
        yield dialect, response


def arm_and_version(response: requests.Response) -> tuple[str, int]:
    return response.headers["X-Model-Arm"], int(response.headers["X-Model-Version"])


@pytest.mark.parametrize(("arm", "version"), [("canary", GOOD), ("stable", STABLE)])
def test_every_dialect_follows_the_arm_header(rollouts: Rollouts, arm: str, version: int) -> None:
    rollouts.set(canary=GOOD, percent=0)
    for dialect, response in post_in_every_dialect(rollouts, arm):
        assert arm_and_version(response) == (arm, version), dialect


@pytest.mark.parametrize("canary", [MISSING, NANS])
def test_stable_answers_for_a_broken_canary_in_every_dialect(
    rollouts: Rollouts, canary: int
) -> None:
    rollouts.set(canary=canary, percent=0)
    for dialect, response in post_in_every_dialect(rollouts, "canary"):
        if canary != NANS or "explain" not in dialect:  # its contributions are finite
            assert arm_and_version(response) == ("stable", STABLE), dialect
            assert "null" not in response.text, dialect


def test_spans_name_the_arm(server: str, tmp_path: Path, collector: Collector) -> None:
    write_rollout(tmp_path, "m", canary=GOOD, percent=0)
    running = start(server, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    try:
        rollouts = Rollouts(tmp_path, running)
        for arm in ("stable", "canary"):
            assert rollouts.post(X_Model_Arm=arm).headers["X-Model-Arm"] == arm
    finally:
        assert running.stop() == 0, running.output()
    spans = [attributes(span) for span in collector.named("POST /v1/models/<model>:predict")]
    assert {span["feature_flag.key"] for span in spans} == {"rollout/m"}
    assert [span["feature_flag.result.variant"] for span in spans] == ["stable", "canary"]
    assert [span["model.version"] for span in spans] == [STABLE, GOOD]


def test_requests_that_name_a_version_bypass_the_rollout(rollouts: Rollouts) -> None:
    rollouts.set(canary=RAISES, percent=100)
    response = rollouts.post(f"/versions/{GOOD}:predict", X_Model_Arm="nonsense")
    assert response.headers["X-Model-Version"] == str(GOOD)
    assert "X-Model-Arm" not in response.headers
    assert rollouts.post(f"/versions/{RAISES}:predict").status_code == 404
    # Without a version, the stable version's metadata is returned.
    metadata = requests.get(f"{rollouts.url}/metadata", timeout=10).json()
    assert metadata["model_spec"]["version"] == str(STABLE)


def test_unknown_arm_is_rejected(rollouts: Rollouts) -> None:
    response = rollouts.post(X_Model_Arm="control")
    assert response.status_code == 400
    assert 'X-Model-Arm: expected \\"canary\\" or \\"stable\\", got \\"control\\"' in response.text


def test_callers_stay_in_the_canary_as_its_share_grows(rollouts: Rollouts) -> None:
    previous: set[str] = set()
    for percent in (20, 60):
        rollouts.set(canary=GOOD, percent=percent)
        users = [f"user-{number}" for number in range(40)]
        arms = [
            {user: rollouts.post(X_User=user).headers["X-Model-Arm"] for user in users}
            for _ in range(2)
        ]
        assert arms[0] == arms[1]
        current = {user for user in users if arms[0][user] == "canary"}
        assert previous < current
        previous = current


def test_invalid_requests_do_not_count_against_the_canary(rollouts: Rollouts) -> None:
    rollouts.set(canary=GOOD, percent=50)
    for number in range(40):
        response = rollouts.post(body=b'{"instances": ["text"]}', X_User=f"user-{number}")
        assert response.status_code == 400
    assert rollouts.metric("client_rollout_cutout") == 0
    assert rollouts.metric("client_arm_requests_total", arm="canary", outcome="refused") > 0


def test_unreadable_file_keeps_the_last_state(rollouts: Rollouts) -> None:
    rollouts.set(canary=GOOD, percent=100)
    file = rollouts.folder / "m.json"
    file.write_text(json.dumps({"format": 2}))
    rollouts.wait_for("client_rollout_unreadable", 1, model="m")
    assert rollouts.post().headers["X-Model-Version"] == str(GOOD)
    assert re.search(r"m\.json: format: expected 1, got 2", rollouts.client.output())
    file.unlink()
    rollouts.generation += 1
    write_rollout(rollouts.folder, "m", generation=rollouts.generation)
    processes.wait_for(
        lambda: not rollouts.metric("client_rollout_unreadable"), "the file is read again"
    )
    assert rollouts.post().headers["X-Model-Version"] == str(STABLE)


def test_shadow_is_compared_row_by_row(rollouts: Rollouts) -> None:
    rows = json.dumps({"instances": [-3.0, 2.0, 1.0]}).encode()
    for shadow, outcome in ((GOOD, "same"), (FLIPS, "flipped")):
        rollouts.set(shadow=shadow)
        response = rollouts.post(body=rows)
        assert response.headers["X-Model-Version"] == str(STABLE)
        rollouts.wait_for("client_shadow_rows_total", 3, version=shadow, outcome=outcome)
        assert rollouts.metric("client_shadow_calls_total", version=shadow, outcome="ok") == 1
        assert rollouts.metric("client_shadow_rows_total", version=shadow) == 3


@pytest.mark.parametrize(
    ("shadow", "outcome"), [(RAISES, "failed"), (NANS, "invalid"), (MISSING, "failed")]
)
def test_broken_shadow_is_only_counted(rollouts: Rollouts, shadow: int, outcome: str) -> None:
    rollouts.set(shadow=shadow)
    assert rollouts.post().headers["X-Model-Version"] == str(STABLE)
    rollouts.wait_for("client_shadow_calls_total", 1, version=shadow, outcome=outcome)


def test_slow_shadow_drops_copies_without_delaying_callers(rollouts: Rollouts) -> None:
    rollouts.set(shadow=SLOW)
    rows = json.dumps({"instances": [X] * 400}).encode()

    def find_error(status: int, headers: dict[str, str], body: bytes) -> str:
        return "" if status == 200 and headers["x-model-version"] == "1" else body.decode()[:200]

    with Callers(f"{rollouts.url}:predict", rows, find_error, 4) as callers:
        wait_until(
            callers, lambda: rollouts.metric("client_shadow_dropped_rows_total", version=SLOW)
        )
        answered = callers.ok_count
        wait_until(callers, lambda: callers.ok_count > answered + 50)
    assert callers.faults == {}
    rollouts.set()


def test_killed_server_causes_no_failures(
    base_path: Path, tmp_path: Path, starter: Starter
) -> None:
    servers = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        servers.append(start_server(tmp_path / name, base_path, "specific { versions: [1, 2] }"))
        starter.running.append(servers[-1])
    for server in servers:
        processes.wait_for(lambda server=server: processes.is_serving(server.address), "it serves")  # type: ignore[misc]
    write_rollout(tmp_path, "m", canary=GOOD, percent=50)
    running = start(",".join(server.address for server in servers), tmp_path, CLIENT_WORKERS="2")
    starter.running.append(running)
    with Callers(f"{running.address}/v1/models/m:predict", BODY, find_inconsistency, 8) as callers:
        wait_until(callers, lambda: callers.ok_count > 150)
        servers[0].process.kill()
        wait_until(callers, lambda: callers.ok_count > 400)
    assert callers.faults == {}
    rollouts = Rollouts(tmp_path, running)
    assert rollouts.metric("client_rollout_generation") == 1
    assert rollouts.metric("client_arm_requests_total", version=GOOD, arm="canary") > 100


def test_removed_server_is_no_longer_reported_as_wrong(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ["127.0.0.1"]
    resolve(monkeypatch, {"localhost": addresses})
    monkeypatch.setattr(pool, "RESOLVE_SECONDS", 0.02)
    metrics = Metrics()

    async def run() -> None:
        async with AsyncServingClient(f"localhost:{server.rpartition(':')[2]}") as client:
            client.pool.start()
            servers = VerifiedServers(client, metrics.observe_golden)
            await servers.learn(Target("m", WRONG), Deadline(TIMEOUT))
            assert metrics.samples().count_by("client_golden", "result")["wrong"] == 1
            addresses[:] = ["127.0.0.2"]
            while metrics.samples().count_by("client_golden", "result")["wrong"]:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), TIMEOUT))


def test_unloaded_version_is_no_longer_reported_as_wrong(base_path: Path, tmp_path: Path) -> None:
    models = tmp_path / "m"
    for version in (STABLE, WRONG):
        shutil.copytree(base_path / str(version), models / str(version))
    model_server = start_server(tmp_path, models, "all {}")
    write_rollout(tmp_path / "rollouts", "m", canary=WRONG, percent=50)
    gateway = start(model_server.address, tmp_path / "rollouts")
    rollouts = Rollouts(tmp_path / "rollouts", gateway)
    wrong = {"version": WRONG, "result": "wrong"}
    try:
        rollouts.wait_for("client_golden", 1, **wrong)
        write_rollout(tmp_path / "rollouts", "m", generation=2)
        shutil.rmtree(models / str(WRONG))
        processes.wait_for(lambda: not rollouts.metric("client_golden", **wrong), "it is gone")
        assert rollouts.post().json()["predictions"]
    finally:
        assert gateway.stop() == 0, gateway.output()
        assert model_server.stop() == 0, model_server.output()


def test_server_with_wrong_golden_rows_is_not_ready(server: str, tmp_path: Path) -> None:
    write_rollout(tmp_path, "m", stable=WRONG)
    running = start(server, tmp_path, ready=False)
    try:
        rollouts = Rollouts(tmp_path, running)
        rollouts.wait_for("client_golden", 1, version=WRONG, result="wrong")
        response = requests.get(f"{running.address}/readyz", timeout=10)
        assert response.status_code == 503
        sentence = f"version {WRONG} on {server} does not compute what training computed"
        assert sentence in response.json()["detail"]
        write_rollout(tmp_path, "m", stable=GOOD, generation=2)
        url = f"{running.address}/readyz"
        processes.wait_for(lambda: requests.get(url, timeout=10).ok, "it is ready")
        write_rollout(tmp_path, "m", stable=MISSING, generation=3)
        processes.wait_for(lambda: not requests.get(url, timeout=10).ok, "it is not ready")
        error = requests.get(url, timeout=10).json()["detail"]
        assert error == (
            f"version {MISSING} of model m, the stable one of its rollout, is not AVAILABLE"
        )
    finally:
        assert running.stop() == 0, running.output()
