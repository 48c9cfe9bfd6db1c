"""The containers of rendered pods, started as they are, work; a cluster would do the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import requests

from tests.support.containers import BODY, docker, readable
from tests.support.pods import Pod, cluster
from tests.support.processes import wait_for
from training.data import datasets as builtin

ROWS = len(BODY["instances"])
COUNTED = "client_drift_rows_total{bin="

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(1800)]


def predict(gateway: Pod) -> int:
    """Have the rows of `BODY` predicted, and return the version that answered."""
    reply = requests.post(f"http://{gateway.address(8080)}/predict", json=BODY, timeout=10)
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["predictions"]) == ROWS
    return int(reply.json()["version"])


def metrics(pod: Pod, port: int) -> list[str]:
    return requests.get(f"http://{pod.address(port)}/metrics", timeout=10).text.splitlines()


def test_the_pods_of_the_embedded_overlay_predict(mountable_models: Path) -> None:
    with cluster("embedded", models=mountable_models) as pods:
        server = pods.start("Deployment", "serving")
        gateway = pods.start("Deployment", "client")
        for pod in (server, gateway):
            pod.wait_until_ready()
        (container,) = gateway.containers
        assert gateway.passes(container["livenessProbe"], container)
        predict(gateway)


def test_the_pod_of_kserve_predicts(mountable_models: Path) -> None:
    name = "breast-cancer"
    model = f"--volume={mountable_models / 'breast_cancer'}:/mnt/models:ro"
    with cluster("kserve") as pods:
        pod = pods.start("ServingRuntime", "logreg-serving", model, model=name)
        pod.wait_until_ready()
        base = f"http://{pod.address(8080)}"
        rows = {"instances": BODY["instances"]}
        reply = requests.post(f"{base}/v1/models/{name}:predict", json=rows, timeout=10)
        assert reply.status_code == 200, reply.text
        assert json.loads(reply.text)["predictions"]
        assert requests.get(f"{base}/v2/models/{name}", timeout=10).ok


def test_the_pods_of_the_indexed_job_fit_and_publish_together(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    table = builtin.breast_cancer().rename({"diagnosis": "label"})
    for number, part in enumerate(table.iter_slices(150)):
        part.write_parquet(data / f"{number}.parquet")
    with cluster("workers", data=data) as pods:
        workers = [pods.start("Job", "training", index=index) for index in (0, 1)]
        ids = [one for worker in workers for one in worker.ids]
        assert docker("wait", *ids).split() == ["0", "0"]
        # Only the first worker publishes.
        assert [docker("logs", one) for one in ids] == ["/models/breast_cancer/1", ""]
        manifest = tmp_path / "manifest.json"
        docker("cp", f"{ids[0]}:/models/breast_cancer/1/manifest.json", str(manifest))
    assert json.loads(manifest.read_text())["rows"]["read"] == len(table)


def test_a_new_version_begins_in_shadow_in_the_pods_of_the_rollout_overlay(
    trained_models: Path, tmp_path: Path
) -> None:
    models = readable(trained_models, tmp_path / "models")
    with cluster("rollout", models=models) as pods:
        started = [pods.start("Deployment", name) for name in ("rollout", "serving", "client")]
        for pod in started:
            pod.wait_until_ready()
        controller, _, gateway = started
        assert predict(gateway) == 1

        shutil.copytree(models / "breast_cancer" / "1", models / ".2")
        (models / ".2").rename(models / "breast_cancer" / "2")
        shadow = 'rollout_phase{model="breast_cancer",phase="shadow"} 1.0'
        wait_for(lambda: shadow in metrics(controller, 9102), "version 2 is in shadow", 60)
        assert predict(gateway) == 1

        where = ("--models=", "--model=", "--state=", "--servers=", "--gateways=")
        arguments = docker("inspect", '--format={{join .Args " "}}', controller.ids[0]).split()
        options = [one for one in arguments if one.startswith(where)]
        shown = controller.run("python", "-m", "rollout", "status", *options, "--json")
        status = json.loads(shown)
        assert status["servers"].popitem()[1]["versions"] == {"1": "AVAILABLE", "2": "AVAILABLE"}
        assert "calls in each arm" in status["verdict"]["reason"]  # the gateway has been read


def test_the_monitoring_pod_reads_and_compacts_the_log_of_the_gateway_s_pod(
    mountable_models: Path,
) -> None:
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
                lambda: any(one.startswith(COUNTED) for one in metrics(gateway, 8080)),
                "the rows are counted for drift",
            )

        predict_and_log()
        # The second signal skips the drain delay. A gateway that ends completes its segment.
        for _ in range(2):
            gateway.run("sh", "-c", "kill -TERM 1")
        restarts = ("inspect", "--format={{.RestartCount}}", gateway.ids[0])
        wait_for(lambda: docker(*restarts) == "1", "the gateway is restarted")
        gateway.wait_until_ready()
        predict_and_log()
        # Segments are left alone for a minute.
        gateway.run("sh", "-c", "touch --date='2 minutes ago' /log/*.ndjson")

        monitoring = pods.start("Deployment", "monitoring")
        monitoring.wait_until_ready()
        of_arm = 'arm="",model="breast_cancer",version="1"'
        expected = {
            f"monitoring_logged_rows{{{of_arm}}} {2 * ROWS:.1f}",  # also of the open segment
            'monitoring_drift_verdict{column="",model="breast_cancer",version="1"} -1.0',
            'monitoring_failures_total{model="breast_cancer"} 0.0',
        }
        wait_for(lambda: expected <= set(metrics(monitoring, 9400)), "a round is shown")
        files = monitoring.run("sh", "-c", "ls /log/model=breast_cancer/date=*/*.parquet")
        count = "import sys, polars; print(polars.read_parquet(sys.argv[1]).height)"
        assert monitoring.run("python", "-c", count, files) == str(ROWS)
