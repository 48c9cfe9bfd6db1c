"""End to end: train on a table, serve the model and predict over HTTP."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf

from tests.conftest import Starter
from tests.support.affine import SLOW, publish
from tests.support.forked import fit
from tests.support.processes import free_port, wait_for
from tests.support.tables import breast_cancer, fit_table
from training.data import datasets as builtin
from training.pipeline import Target, gate_and_publish
from training.publishing.gate import Rules

TABLE = breast_cancer()
BODY = {"instances": TABLE.features[:4].tolist()}


def flags(models: Path) -> tuple[str, ...]:
    return (
        "--model_name=breast_cancer",
        f"--model_base_path={models / 'breast_cancer'}",
        "--file_system_poll_wait_seconds=0.1",
    )


def test_http_predictions_match_the_training_graph(client_url: str, trained_models: Path) -> None:
    loaded = tf.saved_model.load(str(trained_models / "breast_cancer" / "1"))
    graph = loaded.signatures["dense"](features=tf.constant(TABLE.features, tf.float32))
    response = requests.post(
        f"{client_url}/predict", json={"instances": TABLE.features.tolist()}, timeout=30
    )
    predictions = response.json()["predictions"]
    assert len(predictions) == 569
    np.testing.assert_allclose(
        [p["probability"] for p in predictions], graph["probability"], rtol=0, atol=1e-6
    )
    assert [p["label"].encode() for p in predictions] == graph["label"].numpy().tolist()
    correct = sum(
        p["label"] == TABLE.class_names[int(label)]
        for p, label in zip(predictions, TABLE.labels, strict=True)
    )
    assert correct / 569 > 0.96


@pytest.mark.timeout(120)
def test_new_version_is_loaded_without_failed_requests(models: Path, starter: Starter) -> None:
    client = starter.client(starter.model_server(*flags(models)).address)
    responses: list[tuple[int, dict[str, Any]]] = []
    stop = threading.Event()

    def post() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                response = session.post(f"{client.address}/predict", json=BODY, timeout=10)
                responses.append((response.status_code, response.json()))
                stop.wait(0.01)  # leave processor time for training

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    result = fit(models, "--l2=2")
    assert result.returncode == 0, result.stderr
    wait_for(lambda: responses[-1][1].get("version") == 2, "version 2 answers")
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in responses} == {200}
    # Batching changes the order of summation, and so the last digits.
    logits = {
        version: {
            round(response["predictions"][0]["logit"], 2)
            for _, response in responses
            if response["version"] == version
        }
        for version in (1, 2)
    }
    # Each version gives one answer, different from the other version's.
    assert [len(values) for values in logits.values()] == [1, 1]
    assert logits[1] != logits[2]


def test_rows_are_read_in_the_column_order_of_the_version_that_answers(
    models: Path, starter: Starter
) -> None:
    client = starter.client(starter.model_server(*flags(models)).address)
    before = requests.post(f"{client.address}/predict", json=BODY, timeout=10).json()
    publish_reversed(models)

    def reversed_row() -> dict[str, Any]:
        rows = [row[::-1] for row in BODY["instances"]]
        response = requests.post(f"{client.address}/predict", json={"instances": rows}, timeout=10)
        assert response.status_code == 200
        return dict(response.json())

    wait_for(lambda: reversed_row()["version"] == 2, "version 2")
    logits = [p["logit"] for p in reversed_row()["predictions"]]
    np.testing.assert_allclose(logits, [p["logit"] for p in before["predictions"]], rtol=1e-3)


def publish_reversed(models: Path) -> None:
    """Publish the same fit with its columns in reverse order."""
    frame = builtin.breast_cancer()
    label = frame.columns[-1]
    candidate = fit_table(frame=frame.select([*reversed(frame.columns[:-1]), label]))
    rules = Rules(allow_schema_change=True)
    gate_and_publish(candidate, Target(models, "breast_cancer", rules))


def test_killed_model_server_yields_503_until_it_returns(models: Path, starter: Starter) -> None:
    port = free_port()
    server = starter.model_server(*flags(models), port=port)
    client = starter.client(server.address)
    url = f"{client.address}/predict"
    assert requests.post(url, json=BODY, timeout=10).status_code == 200

    server.stop(signal.SIGKILL)
    started = time.monotonic()
    response = requests.post(url, json=BODY, timeout=10)
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert time.monotonic() - started < 5
    assert requests.get(f"{client.address}/readyz", timeout=5).status_code == 503

    starter.model_server(*flags(models), port=port)
    wait_for(lambda: requests.get(f"{client.address}/readyz", timeout=5).ok, "ready again", 10)
    assert requests.post(url, json=BODY, timeout=10).status_code == 200


def test_client_serves_a_model_that_does_not_describe_itself(
    tmp_path: Path, starter: Starter
) -> None:
    class Halve(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"y": x / 2 + 2}

    module = Halve()
    tf.saved_model.save(module, str(tmp_path / "halve" / "3"), signatures=module.serve)
    server = starter.model_server("--model_name=halve", f"--model_base_path={tmp_path / 'halve'}")
    client = starter.client(server.address, CLIENT_MODEL="halve")
    response = requests.post(f"{client.address}/predict", json={"instances": [1, 3.0]}, timeout=10)
    assert response.json() == {"predictions": [2.5, 3.5], "model": "halve", "version": 3}
    page = requests.get(client.address, timeout=10)
    assert page.status_code == 200
    assert '"name":"x"' in page.text


def test_client_finishes_the_request_in_flight_on_sigterm(tmp_path: Path, starter: Starter) -> None:
    publish(tmp_path / "slow", 1, seconds=SLOW)
    server = starter.model_server("--model_name=slow", f"--model_base_path={tmp_path / 'slow'}")
    client = starter.client(server.address, CLIENT_MODEL="slow", CLIENT_TIMEOUT="30")
    responses: list[requests.Response] = []

    def post() -> None:
        responses.append(
            requests.post(f"{client.address}/predict", json={"instances": [1]}, timeout=30)
        )

    def is_in_flight() -> bool:
        stats = requests.get(f"{client.address}/stats", timeout=5).json()
        return bool(stats["requests"]["in_flight"] == 2)  # with this request

    thread = threading.Thread(target=post)
    thread.start()
    wait_for(is_in_flight, "the request is in flight")
    assert not responses
    assert client.stop(signal.SIGTERM) == 0
    thread.join()
    assert responses[0].json()["predictions"] == [11.0]
