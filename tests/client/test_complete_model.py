"""A model with dates and missing values in every column, over HTTP and from files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from client import ServingClient
from tests.support import forked, processes
from tests.support.mixed import BIAS, COMPLETE, LABEL_NAME, MISSING, UNKNOWN, publish
from tests.support.processes import ROOT

ROW = {"size": 40.0, "built": "2024-03-01", "city": "Basel", "rooms": 2, "balcony": False}
LOGIT = 0.4 + 197.83 + 1 + 1 + 0 + BIAS
ALL_MISSING_LOGIT = MISSING + MISSING + MISSING + UNKNOWN + 1 + BIAS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("complete")
    publish(folder / "flats", columns=COMPLETE)
    running = forked.start_model_server(
        folder / "log", "--model_name=flats", f"--model_base_path={folder / 'flats'}"
    )
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    yield running.address
    assert running.stop() == 0, running.output()


@pytest.fixture(scope="module")
def url(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("client") / "log"
    with forked.client(log, server, CLIENT_MODEL="flats") as address:
        yield address


def run_client(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", ["/predict", "/v1/models/flats:predict"])
def test_dates_and_missing_values_in_json(url: str, path: str) -> None:
    empty = dict.fromkeys(ROW)
    bodies: list[dict[str, Any]] = [
        {"instances": [ROW, empty]},
        {"instances": [list(ROW.values()), [None] * 5]},
        {"inputs": {name: [value, None] for name, value in ROW.items()}},
    ]
    for body in bodies:
        response = requests.post(url + path, json=body, timeout=20)
        assert response.status_code == 200, response.text
        logits = (
            response.json()["outputs"]["logit"]
            if "inputs" in body
            else [p["logit"] for p in response.json()["predictions"]]
        )
        np.testing.assert_allclose(logits, [LOGIT, ALL_MISSING_LOGIT], rtol=1e-5)


def test_invalid_date_is_rejected(url: str) -> None:
    body = {"instances": [{**ROW, "built": "yesterday"}]}
    response = requests.post(f"{url}/predict", json=body, timeout=20)
    assert response.status_code == 400
    assert response.json()["error"] == (
        "instances[0].built: expected a date such as 2024-03-01 or 2024-03-01T12:30:00Z, "
        'got the string "yesterday"'
    )


TABLE = f"""key;{LABEL_NAME};balcony;size;built;city;rooms
a1;yes; FALSE ;40,0; 01.03.2024 ; Basel;2
=b;no;NA;-;?;#N/A;.
"""


def test_training_file_can_be_posted_unchanged(url: str) -> None:
    response = requests.post(
        f"{url}/predict?id=key&outputs=logit",
        data=TABLE.encode(),
        headers={"Content-Type": "text/csv"},
        timeout=20,
    )
    assert response.status_code == 200, response.text
    assert response.headers["X-Ignored-Columns"] == LABEL_NAME
    assert response.headers["X-Missing-Imputed"] == "5"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["key"] for row in rows] == ["a1", "'=b"]
    np.testing.assert_allclose(
        [float(row["logit"]) for row in rows], [LOGIT, ALL_MISSING_LOGIT], rtol=1e-5
    )
    lines = f"{json.dumps(ROW)}\n{{}}\n{json.dumps({**ROW, 'size': 'x'})}\n"
    for content_type in ("application/jsonl", "application/x-ndjson"):
        response = requests.post(
            f"{url}/predict?on_error=row",
            data=lines,
            headers={"Content-Type": content_type},
            timeout=20,
        )
        results = [json.loads(line) for line in response.text.splitlines()]
        assert results[0]["logit"] == pytest.approx(LOGIT, rel=1e-5)
        assert 'line 2: column "size" (float32) is missing' in results[1]["error"]
        assert 'line 3, column "size": expected a number' in results[2]["error"]
    response = requests.post(
        f"{url}/predict",
        data=b"PAR1",
        headers={"Content-Type": "application/vnd.apache.parquet"},
        timeout=20,
    )
    assert response.status_code == 415
    assert "Content-Type: expected one of application/json, text/csv" in response.json()["error"]


def test_command_predicts_a_gzipped_training_file_unchanged(server: str, tmp_path: Path) -> None:
    file = tmp_path / "flats.csv.gz"
    file.write_bytes(gzip.compress(TABLE.encode()))
    arguments = ("predict", str(file), "--model=flats", f"--server={server}")
    completed = run_client(
        *arguments, "--keep=key", "--keep=built", "--output=logit", "--no-csv-guard"
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == f"ignored columns: {LABEL_NAME}\n"
    rows = list(csv.reader(io.StringIO(completed.stdout)))
    assert [row[:2] for row in rows] == [["key", "built"], ["a1", " 01.03.2024 "], ["=b", "?"]]
    refused = run_client(*arguments, "--tls", "--ca=/nosuch.pem")
    assert refused.returncode != 0
    assert "nosuch.pem" in refused.stderr


def test_example_command_prints_a_valid_request(server: str, url: str) -> None:
    arguments = ("example", "--model=flats", f"--server={server}")
    completed = run_client(*arguments)
    assert completed.returncode == 0, completed.stderr
    body = json.loads(completed.stdout)
    assert body["instances"][0] == {
        "size": 50.5,
        "built": "2019-04-14",
        "city": "Bern",
        "rooms": 3,
        "balcony": True,
    }
    response = requests.post(f"{url}/predict", json=body, timeout=20)
    assert len(response.json()["predictions"]) == 2
    words = shlex.split(run_client(*arguments, "--curl", "--version=1").stdout)
    assert words[:2] == ["curl", "http://127.0.0.1:8080/v1/models/flats/versions/1:predict"]
    assert json.loads(words[-1]) == body
    unknown = run_client(*arguments, "--signature=nosuch")
    assert unknown.returncode == 1
    assert 'model flats has no "nosuch"; it has describe' in unknown.stderr


def test_labels_are_text(server: str) -> None:
    with ServingClient(server) as connection:
        columns = {name: [value] for name, value in ROW.items()}
        columns["built"] = [19783.0]
        outputs = connection.predict("flats", columns).outputs
        assert outputs["label"].tolist() == ["leaves"]
        description = connection.schema("flats").description
    assert description is not None
    assert description.label_name == LABEL_NAME
    assert [column.kind for column in description.columns] == [c.kind for c in COMPLETE]
