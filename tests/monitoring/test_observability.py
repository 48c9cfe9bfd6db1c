"""Alert rules checked by promtool, and dashboard expressions evaluated by Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry

from client.observability.arm_metrics import ArmMetrics
from client.observability.metrics import Metrics
from monitoring.__main__ import main
from monitoring.counters import Bin, query_prometheus
from monitoring.drift import ColumnDrift
from monitoring.exporter import Exporter
from monitoring.metrics import Estimate
from monitoring.quality import ArmQuality
from monitoring.retraining import Run
from monitoring.statistics import Shift
from rollout.exporter import Exporter as RolloutExporter
from tests.conftest import Starter, skip_or_fail
from tests.support.prediction_log import exposition
from tests.support.processes import ROOT, wait_for

OBSERVABILITY = ROOT / "deploy" / "observability"
DASHBOARDS = sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
# Series that exist only in a rollout.
ROLLOUT_SERIES = re.compile(r"client_arm_|client_shadow_|rollout_")
PROJECT_METRICS = re.compile(r"\b(?:client|monitoring|rollout)_\w+")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def find_tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        skip_or_fail(f"{name} is not installed (on Debian: apt-get install {PACKAGES[name]})")
    assert path is not None
    return path


def test_alert_rules_pass_their_promtool_tests() -> None:
    rules = str(OBSERVABILITY / "alerts_test.yml")
    result = subprocess.run(
        [find_tool("promtool"), "test", "rules", rules], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_configuration_is_valid() -> None:
    config = str(OBSERVABILITY / "prometheus.yml")
    result = subprocess.run(
        [find_tool("promtool"), "check", "config", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def dashboard_expressions() -> list[tuple[str, str]]:
    expressions = []
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            assert panel["title"]
            for target in panel["targets"]:
                expressions.append((f"{path.stem}: {panel['title']}", target["expr"]))
        for variable in board["templating"]["list"]:
            match = re.fullmatch(r"label_values\((\w+), model\)", variable["query"])
            assert match
            expressions.append((f"{path.stem}: {variable['name']}", match[1]))
    return expressions


def rule_expressions() -> list[tuple[str, str]]:
    groups = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def test_expressions_use_only_existing_metrics() -> None:
    arms = CollectorRegistry()
    ArmMetrics(arms)
    registries = (Metrics().registry, arms, RolloutExporter("m")._registry, Exporter("m").registry)
    names = {
        family.name + suffix
        for registry in registries
        for family in registry.collect()
        for suffix in SUFFIXES.get(family.type, ("",))
    }
    for source, expression in (*dashboard_expressions(), *rule_expressions()):
        assert set(PROJECT_METRICS.findall(expression)) <= names, source


def publish_round(exporter: Exporter) -> None:
    """Publish the metrics of one round of `watch`."""
    shift = Shift(0.5, 0.01, 0.2, None, 50.0, 20.0, "alarm")
    columns = [ColumnDrift(name, 1000, shift, 1.0, 0.1, 0.0, 0.0, 0.0) for name in ("", "x")]
    exporter.set_drift(1, columns)
    names = ("log_loss", "brier", "auc", "accuracy", "calibration_error")
    metrics = {name: Estimate(0.5, 0.4, 0.6) for name in names}
    expected = {"accuracy": metrics["accuracy"], "log_loss": metrics["log_loss"]}
    arm = ArmQuality(1, None, 10, 5, 0.5, (1.0, 2.0), 0, metrics, expected, (), None)
    exporter.set_quality([arm])
    exporter.count_run(Run("", "breast_cancer", "", "published", 2, "", "", 5, 1.0))
    exporter.finish(NOW.timestamp(), failed=False)


def test_last_round_starts_at_the_current_time() -> None:
    last = Exporter("m").registry.get_sample_value("monitoring_last_round_seconds", {"model": "m"})
    assert last is not None
    assert abs(last - time.time()) < 60


def start_prometheus(
    starter: Starter, folder: Path, targets: Mapping[str, str], **settings: Any
) -> str:
    """Start Prometheus to scrape the target of each job, and return its URL."""
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        **settings,
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return start_tool(
        starter,
        find_tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    )


def start_tool(starter: Starter, *command: str) -> str:
    """Start a Prometheus tool on a free port, wait until it is ready, and return its URL."""
    running = starter.command([*command, "--web.listen-address=127.0.0.1:0"])

    def port() -> str | None:
        assert running.process.poll() is None, running.output()
        match = re.search(r'msg="Listening on".* address=\S+:(\d+)\s', running.output())
        return match and match[1]

    wait_for(port, f"{command[0]} listens")
    url = f"http://127.0.0.1:{port()}"
    wait_for(lambda: requests.get(f"{url}/-/ready", timeout=20).ok, f"{command[0]} is ready")
    return url


def run_query(url: str, expression: str) -> list[dict[str, Any]]:
    response = requests.get(f"{url}/api/v1/query", params={"query": expression}, timeout=20)
    assert response.ok, f"{expression}: {response.text}"
    result: list[dict[str, Any]] = response.json()["data"]["result"]
    return result


def test_every_dashboard_expression_has_a_result(
    starter: Starter, model_server: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.mkdir()
    gateway = starter.client(model_server, CLIENT_LOG=str(log))
    body = (ROOT / "examples" / "rows.json").read_bytes()
    exporter = Exporter("breast_cancer")
    publish_round(exporter)
    targets = {
        "gateway": gateway.address.removeprefix("http://"),
        "monitoring": f"127.0.0.1:{exporter.serve('127.0.0.1', 0)}",
    }
    url = start_prometheus(starter, tmp_path, targets)

    def has_result(query: str) -> bool:
        assert requests.post(f"{gateway.address}/predict", data=body, timeout=20).ok
        return bool(run_query(url, query) or ROLLOUT_SERIES.search(query))

    def firing() -> set[str]:
        return {name for name, expression in rule_expressions() if run_query(url, expression)}

    # If a scrape fails on a busy machine, its series have no values for a while.
    for source, expression in dashboard_expressions():
        query = expression.replace("$__rate_interval", "1m").replace("$model", ".*")
        wait_for(partial(has_result, query), f"{source} has a result: {query}")
    expected = {"InputsHaveDrifted", "MonitoringStopped"}
    wait_for(lambda: expected <= (now := firing()) and "GatewayDown" not in now, "the alerts fire")


def test_drift_alert_reaches_alertmanager(starter: Starter, tmp_path: Path) -> None:
    alertmanager = start_tool(
        starter,
        find_tool("prometheus-alertmanager"),
        f"--config.file={OBSERVABILITY / 'alertmanager.yml'}",
        f"--storage.path={tmp_path / 'alertmanager'}",
        "--cluster.listen-address=",
    )
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("for", None)  # half an hour is too long for a test
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    exporter = Exporter("breast_cancer")
    publish_round(exporter)
    start_prometheus(
        starter,
        tmp_path,
        {"monitoring": f"127.0.0.1:{exporter.serve('127.0.0.1', 0)}"},
        rule_files=[str(tmp_path / "alerts.yml")],
        alerting={
            "alertmanagers": [
                {"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}
            ],
        },
    )

    def drift_alerts() -> list[dict[str, Any]]:
        response = requests.get(f"{alertmanager}/api/v2/alerts", timeout=20)
        alerts = response.json()
        return [alert for alert in alerts if alert["labels"]["alertname"] == "InputsHaveDrifted"]

    wait_for(drift_alerts, "the alert arrives")
    by_column = {alert["labels"].get("column"): alert for alert in drift_alerts()}
    summary = by_column["x"]["annotations"]["summary"]
    assert summary == "x of breast_cancer has drifted beyond what chance explains"
    assert [receiver["name"] for receiver in by_column["x"]["receivers"]] == ["none"]


def test_row_counts_of_a_window_are_read_from_prometheus(
    starter: Starter, gateway: HTTPServer, tmp_path: Path
) -> None:
    # Prometheus omits empty labels, such as the column of the model's own probability.
    bins = (Bin("m", 1, "", "0"), Bin("m", 1, "x", "missing"), Bin("other", 1, "x", "0"))
    gateway.text = exposition(Counter(dict.fromkeys(bins, 5)))  # type: ignore[attr-defined]
    url = start_prometheus(starter, tmp_path, {"gateway": f"127.0.0.1:{gateway.server_port}"})
    wait_for(lambda: run_query(url, "client_drift_rows_total == 5"), "the first counts are scraped")
    later_counts = Counter(dict(zip(bins, (15, 35, 45), strict=True)))
    gateway.text = exposition(later_counts)  # type: ignore[attr-defined]
    wait_for(lambda: run_query(url, "client_drift_rows_total == 35"), "later counts are scraped")
    counts = query_prometheus(url, "m", timedelta(hours=1))
    assert set(counts) == set(bins[:2])
    # `increase` extrapolates beyond the first and last samples; there are only a few here.
    assert 10 <= counts[bins[0]] <= 30
    assert 30 <= counts[bins[1]] <= 90


@pytest.mark.parametrize("retraining", [False, True])
def test_compose_files_start_watch_with_valid_options(
    docker_engine: None, retraining: bool
) -> None:
    files = ["docker-compose.yml", "deploy/compose.monitoring.yml"]
    files += ["deploy/compose.retraining.yml"] if retraining else []
    result = subprocess.run(
        [
            *("docker", "compose", *(f"--file={file}" for file in files)),
            *("--profile=observability", "config", "--format=json"),
        ],
        cwd=ROOT,
        env={**os.environ, "DATA": "./table.csv"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    services = json.loads(result.stdout)["services"]
    command, *options = services["monitoring"]["command"]
    context = main.commands[command].make_context(command, list(options))
    assert context.params["gateways"] == "http://client:8080"
    assert (context.params["data"] is not None) == retraining
    # Client and watcher share the log directory, and Prometheus scrapes the watcher's port.
    log_source = {v["target"]: v["source"] for v in services["client"]["volumes"]}["/log"]
    assert {v["target"]: v["source"] for v in services["monitoring"]["volumes"]}[
        "/log"
    ] == log_source
    assert services["client"]["environment"]["CLIENT_LOG"] == str(context.params["log"]) == "/log"
    config = (OBSERVABILITY / "prometheus.yml").read_text()
    assert f"monitoring:{context.params['port']}" in config
