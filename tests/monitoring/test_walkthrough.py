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
    model_options = [f"--models={models}", "--model=churn"]

    def run_json(command: str, *options: str) -> Any:
        result = CliRunner().invoke(main, [command, *model_options, *options, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def measure_quality(version: int, arm: str) -> Any:
        arms = run_json("quality", f"--log={log}")["arms"]
        return next(row for row in arms if (row["version"], row["arm"]) == (version, arm))

    def read_manifest(number: int) -> Any:
        return json.loads((models / "churn" / str(number) / "manifest.json").read_text())

    def measure_drift() -> Any:
        columns = run_json("drift", f"--gateways={gateway}")["columns"]
        return {column["column"]: column for column in columns}

    def count_logged_rows() -> int:
        return sum(path.read_bytes().count(b"\n") for path in log.glob("*.ndjson*"))

    _, predict, label, retrain, promote, recover = walkthrough.code_blocks()
    rollout = [sys.executable, "-m", "rollout"]
    walkthrough.run("python -m rollout init --models models --model churn", churn)
    rest_port = free_port()
    server = starter.model_server(
        f"--model_config_file={models / '.rollout' / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
        f"--rest_api_port={rest_port}",
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
    endpoints = [f"--gateways={gateway}", f"--servers=http://127.0.0.1:{rest_port}"]
    rollout_options = ["--steps=50", "--bake=2s", "--tolerance=20"]
    controller = starter.command(
        [*rollout, "watch", "--auto", *model_options, *endpoints, *rollout_options]
    )

    def run(commands: str) -> str:
        return walkthrough.run(commands, churn, GATEWAY=gateway)

    run(predict)
    wait_for(lambda: measure_drift()["age"]["rows"] == 2000, "all rows are counted")
    columns = measure_drift()
    assert columns["price"]["verdict"] == "alarm"
    assert columns["price"]["psi"] > 2
    assert columns["price"]["psi_limit"] < 0.03
    assert (columns["age"]["verdict"], columns["plan"]["verdict"]) == ("ok", "ok")

    run(label)
    wait_for(lambda: count_logged_rows() == 2000, "all rows are logged")
    before = measure_quality(1, "stable")
    assert before["labelled"] == 2000
    assert before["metrics"]["auc"]["high"] < read_manifest(1)["metrics"]["auc"]
    # The relation of labels to inputs has changed, which the probabilities alone cannot show.
    assert before["metrics"]["accuracy"]["high"] < before["expected"]["accuracy"]["value"]
    assert "<svg" in (churn / "before.html").read_text()

    assert "published version 2 of churn (2,000 labelled rows" in run(retrain)
    assert read_manifest(2)["reason"] == "prices vary"
    assert read_manifest(2)["gate"]["comparison"]["version"] == 1

    assert "promoted" in run(promote), controller.output()
    history = (models / ".rollout" / "churn.history.ndjson").read_text().splitlines()
    phases = [json.loads(line)["phase"] for line in history]
    assert phases == ["idle", "loading", "canary", "promoted"]

    at_rest = 'client_rollout_percent{model="churn"} 0.0'
    wait_for(
        lambda: at_rest in requests.get(f"{gateway}/metrics", timeout=10).text,
        "the rollout is at rest",
    )
    run(recover)
    after = measure_quality(2, "stable")
    assert after["labelled"] == 2000
    assert after["metrics"]["auc"]["low"] > 0.8 > before["metrics"]["auc"]["high"]
