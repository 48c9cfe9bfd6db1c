"""The containers of rendered pods, started by Docker without a cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import requests

from tests.support.containers import BODY, copy_for_containers, docker
from tests.support.pods import Pod, cluster
from tests.support.processes import wait_for
from training.data import datasets as builtin

ROWS = len(BODY["instances"])
DRIFT_ROWS = "client_drift_rows_total{bin="

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(1800)]


def predict(gateway: Pod) -> int:
    """Predict the rows of `BODY` and return the version that answered."""
    response = requests.post(f"http://{gateway.address(8080)}/predict", json=BODY, timeout=10)
    assert response.status_code == 200, response.text
    assert len(response.json()["predictions"]) == ROWS
    return int(response.json()["version"])


def metrics(pod: Pod, port: int) -> list[str]:
    return requests.get(f"http://{pod.address(port)}/metrics", timeout=10).text.splitlines()


def test_embedded_overlay_pods_predict(mountable_models: Path) -> None:
    with cluster("embedded", models=mountable_models) as pods:
        server = pods.start("Deployment", "serving")
        gateway = pods.start("Deployment", "client")
        for pod in (server, gateway):
            pod.wait_until_ready()
        (container,) = gateway.containers
        assert gateway.passes(container["livenessProbe"], container)
        predict(gateway)


def test_kserve_pod_predicts(mountable_models: Path) -> None:
    name = "breast-cancer"
    model = f"--volume={mountable_models / 'breast_cancer'}:/mnt/models:ro"
    with cluster("kserve") as pods:
        pod = pods.start("ServingRuntime", "logreg-serving", model, model=name)
        pod.wait_until_ready()
        base = f"http://{pod.address(8080)}"
        rows = {"instances": BODY["instances"]}
        response = requests.post(f"{base}/v1/models/{name}:predict", json=rows, timeout=10)
        assert response.status_code == 200, response.text
        assert json.loads(response.text)["predictions"]
        assert requests.get(f"{base}/v2/models/{name}", timeout=10).ok


def test_indexed_job_pods_fit_together_and_publish_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    table = builtin.breast_cancer().rename({"diagnosis": "label"})
    for number, chunk in enumerate(table.iter_slices(150)):
        chunk.write_parquet(data / f"{number}.parquet")
    with cluster("workers", data=data) as pods:
        workers = [pods.start("Job", "training", index=index) for index in (0, 1)]
        ids = [container for worker in workers for container in worker.ids]
        assert docker("wait", *ids).split() == ["0", "0"]
        # Only the first worker publishes.
        assert [docker("logs", container) for container in ids] == ["/models/breast_cancer/1", ""]
        manifest = tmp_path / "manifest.json"
        docker("cp", f"{ids[0]}:/models/breast_cancer/1/manifest.json", str(manifest))
    assert json.loads(manifest.read_text())["rows"]["read"] == len(table)


def test_new_version_begins_in_shadow_in_the_rollout_overlay(
    trained_models: Path, tmp_path: Path
) -> None:
    models = copy_for_containers(trained_models, tmp_path / "models")
    with cluster("rollout", models=models) as pods:
        workloads = [pods.start("Deployment", name) for name in ("rollout", "serving", "client")]
        for pod in workloads:
            pod.wait_until_ready()
        controller, _, gateway = workloads
        assert predict(gateway) == 1

        shutil.copytree(models / "breast_cancer" / "1", models / ".2")
        (models / ".2").rename(models / "breast_cancer" / "2")
        shadow = 'rollout_phase{model="breast_cancer",phase="shadow"} 1.0'
        wait_for(lambda: shadow in metrics(controller, 9102), "version 2 is in shadow", 60)
        assert predict(gateway) == 1

        prefixes = ("--models=", "--model=", "--state=", "--servers=", "--gateways=")
        arguments = docker("inspect", '--format={{join .Args " "}}', controller.ids[0]).split()
        options = [argument for argument in arguments if argument.startswith(prefixes)]
        output = controller.run("python", "-m", "rollout", "status", *options, "--json")
        status = json.loads(output)
        assert status["servers"].popitem()[1]["versions"] == {"1": "AVAILABLE", "2": "AVAILABLE"}
        assert "calls in each arm" in status["verdict"]["reason"]  # the gateway has been read


def test_monitoring_pod_reads_and_compacts_the_gateway_log(mountable_models: Path) -> None:
    with cluster("monitoring", models=mountable_models) as pods:
        server = pods.start("Deployment", "serving")
        gateway = pods.start("Deployment", "client")
        for pod in (server, gateway):
            pod.wait_until_ready()

        def predict_and_log() -> None:
            predict(gateway)
            rows = f'client_log_rows_total{{model="breast_cancer"}} {ROWS:.1f}'
            wait_for(lambda: rows in metrics(gateway, 8080), "the rows are in the log")
            wait_for(
                lambda: any(line.startswith(DRIFT_ROWS) for line in metrics(gateway, 8080)),
                "the rows are counted for drift",
            )

        predict_and_log()
        # The second signal skips the drain delay. A stopping gateway completes its segment.
        for _ in range(2):
            gateway.run("sh", "-c", "kill -TERM 1")
        restarts = ("inspect", "--format={{.RestartCount}}", gateway.ids[0])
        wait_for(lambda: docker(*restarts) == "1", "the gateway is restarted")
        gateway.wait_until_ready()
        predict_and_log()
        # Segments younger than a minute are not compacted.
        gateway.run("sh", "-c", "touch --date='2 minutes ago' /log/*.ndjson")

        monitoring = pods.start("Deployment", "monitoring")
        monitoring.wait_until_ready()
        labels = 'arm="",model="breast_cancer",version="1"'
        expected = {
            f"monitoring_logged_rows{{{labels}}} {2 * ROWS:.1f}",  # including the open segment
            'monitoring_drift_verdict{column="",model="breast_cancer",version="1"} -1.0',
            'monitoring_failures_total{model="breast_cancer"} 0.0',
        }
        wait_for(lambda: expected <= set(metrics(monitoring, 9400)), "a round is exported")
        files = monitoring.run("sh", "-c", "ls /log/model=breast_cancer/date=*/*.parquet")
        count = "import sys, polars; print(polars.read_parquet(sys.argv[1]).height)"
        assert monitoring.run("python", "-c", count, files) == str(ROWS)
