"""The walk-through of docs/monitoring.md, with real services."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from monitoring.__main__ import main
from tests.conftest import Starter
from tests.support import walkthrough
from tests.support.processes import free_port, is_serving, wait_for


@pytest.mark.timeout(600)
def test_drift_labels_retraining_rollout_and_recovery(starter: Starter, churn: Path) -> None:
    models, log = churn / "models", churn / "log"
    on_churn = [f"--models={models}", "--model=churn"]

    def printed(command: str, *options: str) -> Any:
        done = CliRunner().invoke(main, [command, *on_churn, *options, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def quality(version: int, arm: str) -> Any:
        arms = printed("quality", f"--log={log}")["arms"]
        return next(one for one in arms if (one["version"], one["arm"]) == (version, arm))

    def manifest(number: int) -> Any:
        return json.loads((models / "churn" / str(number) / "manifest.json").read_text())

    def drift() -> Any:
        columns = printed("drift", f"--gateways={gateway}")["columns"]
        return {one["column"]: one for one in columns}

    def logged() -> int:
        return sum(path.read_bytes().count(b"\n") for path in log.glob("*.ndjson*"))

    _, ask, label, retrain, promote, recover = walkthrough.blocks()
    rollout = [sys.executable, "-m", "rollout"]
    walkthrough.run("python -m rollout init --models models --model churn", churn)
    rest = free_port()
    server = starter.model_server(
        f"--model_config_file={models / '.rollout' / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
        f"--rest_api_port={rest}",
    )
    wait_for(lambda: is_serving(server.address), "the model is loaded")
    log.mkdir()
    client = starter.client(
        server.address,
        CLIENT_LOG=str(log),
        CLIENT_ROLLOUT=str(models / ".rollout"),
        CLIENT_MODEL="churn",
    )
    gateway = client.address
    where = [f"--gateways={gateway}", f"--servers=http://127.0.0.1:{rest}"]
    steps = ["--steps=50", "--bake=2s", "--tolerance=20"]
    controller = starter.command([*rollout, "watch", "--auto", *on_churn, *where, *steps])

    def run(commands: str) -> str:
        return walkthrough.run(commands, churn, GATEWAY=gateway)

    run(ask)
    wait_for(lambda: drift()["age"]["rows"] == 2000, "all rows are counted")
    found = drift()
    assert found["price"]["verdict"] == "alarm"
    assert found["price"]["psi"] > 2
    assert found["price"]["psi_limit"] < 0.03
    assert (found["age"]["verdict"], found["plan"]["verdict"]) == ("ok", "ok")

    run(label)
    wait_for(lambda: logged() == 2000, "all rows are logged")
    before = quality(1, "stable")
    assert before["labelled"] == 2000
    assert before["metrics"]["auc"]["high"] < manifest(1)["metrics"]["auc"]
    # The labels' relation to the inputs has changed, which probabilities cannot know.
    assert before["metrics"]["accuracy"]["high"] < before["expected"]["accuracy"]["value"]
    assert "<svg" in (churn / "before.html").read_text()

    assert "published version 2 of churn (2,000 labelled rows" in run(retrain)
    assert manifest(2)["reason"] == "prices vary"
    assert manifest(2)["gate"]["comparison"]["version"] == 1

    assert "promoted" in run(promote), controller.output()
    history = (models / ".rollout" / "churn.history.ndjson").read_text().splitlines()
    phases = [json.loads(line)["phase"] for line in history]
    assert phases == ["idle", "loading", "canary", "promoted"]

    at_rest = 'client_rollout_percent{model="churn"} 0.0'
    wait_for(lambda: at_rest in requests.get(f"{gateway}/metrics", timeout=10).text, "it follows")
    run(recover)
    after = quality(2, "stable")
    assert after["labelled"] == 2000
    assert after["metrics"]["auc"]["low"] > 0.8 > before["metrics"]["auc"]["high"]
