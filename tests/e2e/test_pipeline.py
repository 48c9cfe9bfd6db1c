"""The whole line: a table is trained, served, and asked over HTTP."""

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
from tests.support.tables import breast_cancer, fitted
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


def test_http_answers_what_the_training_graph_computes(
    client_url: str, trained_models: Path
) -> None:
    loaded = tf.saved_model.load(str(trained_models / "breast_cancer" / "1"))
    graph = loaded.signatures["dense"](features=tf.constant(TABLE.features, tf.float32))
    reply = requests.post(
        f"{client_url}/predict", json={"instances": TABLE.features.tolist()}, timeout=30
    )
    predictions = reply.json()["predictions"]
    assert len(predictions) == 569
    np.testing.assert_allclose(
        [p["probability"] for p in predictions], graph["probability"], rtol=0, atol=1e-6
    )
    assert [p["label"].encode() for p in predictions] == graph["label"].numpy().tolist()
    right = sum(
        p["label"] == TABLE.class_names[int(label)]
        for p, label in zip(predictions, TABLE.labels, strict=True)
    )
    assert right / 569 > 0.96


@pytest.mark.timeout(120)
def test_a_new_version_is_taken_up_without_a_failed_request(models: Path, starter: Starter) -> None:
    client = starter.client(starter.model_server(*flags(models)).address)
    replies: list[tuple[int, dict[str, Any]]] = []
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                reply = session.post(f"{client.address}/predict", json=BODY, timeout=10)
                replies.append((reply.status_code, reply.json()))
                stop.wait(0.01)  # leave processor time for training

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    done = fit(models, "--l2=2")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: replies[-1][1].get("version") == 2, "version 2 answers")
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in replies} == {200}
    # Rows that share a call are added up in another order, which shows in the last digits.
    logits = {
        version: {
            round(reply["predictions"][0]["logit"], 2)
            for _, reply in replies
            if reply["version"] == version
        }
        for version in (1, 2)
    }
    # Each version has one answer, and it is its own.
    assert [len(one) for one in logits.values()] == [1, 1]
    assert logits[1] != logits[2]


def test_a_version_with_other_columns_in_another_order_is_understood_at_once(
    models: Path, starter: Starter
) -> None:
    """Rows in column order must be read with the order of the version that answers."""
    client = starter.client(starter.model_server(*flags(models)).address)
    before = requests.post(f"{client.address}/predict", json=BODY, timeout=10).json()
    publish_reversed(models)

    def reversed_row() -> dict[str, Any]:
        rows = [row[::-1] for row in BODY["instances"]]
        reply = requests.post(f"{client.address}/predict", json={"instances": rows}, timeout=10)
        assert reply.status_code == 200
        return dict(reply.json())

    wait_for(lambda: reversed_row()["version"] == 2, "version 2")
    seen = [p["logit"] for p in reversed_row()["predictions"]]
    np.testing.assert_allclose(seen, [p["logit"] for p in before["predictions"]], rtol=1e-3)


def publish_reversed(models: Path) -> None:
    """Publish the same fit with its columns the other way round."""
    frame = builtin.breast_cancer()
    label = frame.columns[-1]
    candidate = fitted(frame=frame.select([*reversed(frame.columns[:-1]), label]))
    rules = Rules(allow_schema_change=True)
    gate_and_publish(candidate, Target(models, "breast_cancer", rules))


def test_a_killed_model_server_is_503_and_its_return_is_noticed(
    models: Path, starter: Starter
) -> None:
    port = free_port()
    server = starter.model_server(*flags(models), port=port)
    client = starter.client(server.address)
    url = f"{client.address}/predict"
    assert requests.post(url, json=BODY, timeout=10).status_code == 200

    server.stop(signal.SIGKILL)
    started = time.monotonic()
    reply = requests.post(url, json=BODY, timeout=10)
    assert reply.status_code == 503
    assert "Retry-After" in reply.headers
    assert time.monotonic() - started < 5
    assert requests.get(f"{client.address}/readyz", timeout=5).status_code == 503

    starter.model_server(*flags(models), port=port)
    wait_for(lambda: requests.get(f"{client.address}/readyz", timeout=5).ok, "ready again", 10)
    assert requests.post(url, json=BODY, timeout=10).status_code == 200


def test_the_client_serves_a_model_that_does_not_describe_itself(
    tmp_path: Path, starter: Starter
) -> None:
    """Any SavedModel will do: bring your own."""

    class Halve(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"y": x / 2 + 2}

    module = Halve()
    tf.saved_model.save(module, str(tmp_path / "halve" / "3"), signatures=module.serve)
    server = starter.model_server("--model_name=halve", f"--model_base_path={tmp_path / 'halve'}")
    client = starter.client(server.address, CLIENT_MODEL="halve")
    reply = requests.post(f"{client.address}/predict", json={"instances": [1, 3.0]}, timeout=10)
    assert reply.json() == {"predictions": [2.5, 3.5], "model": "halve", "version": 3}
    page = requests.get(client.address, timeout=10)
    assert page.status_code == 200
    assert '"name":"x"' in page.text


def test_the_client_finishes_the_request_under_way_when_told_to_stop(
    tmp_path: Path, starter: Starter
) -> None:
    publish(tmp_path / "slow", 1, seconds=SLOW)
    server = starter.model_server("--model_name=slow", f"--model_base_path={tmp_path / 'slow'}")
    client = starter.client(server.address, CLIENT_MODEL="slow", CLIENT_TIMEOUT="30")
    replies: list[requests.Response] = []

    def ask() -> None:
        replies.append(
            requests.post(f"{client.address}/predict", json={"instances": [1]}, timeout=30)
        )

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.4)
    assert not replies
    assert client.stop(signal.SIGTERM) == 0
    thread.join()
    assert replies[0].json()["predictions"] == [11.0]
