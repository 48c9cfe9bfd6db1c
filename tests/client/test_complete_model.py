"""A model that takes dates, and a missing value in every column: over HTTP and from files."""

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
NOTHING = MISSING + MISSING + MISSING + UNKNOWN + 1 + BIAS


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


def client(*arguments: str) -> subprocess.CompletedProcess[str]:
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
        reply = requests.post(url + path, json=body, timeout=20)
        assert reply.status_code == 200, reply.text
        logits = (
            reply.json()["outputs"]["logit"]
            if "inputs" in body
            else [p["logit"] for p in reply.json()["predictions"]]
        )
        np.testing.assert_allclose(logits, [LOGIT, NOTHING], rtol=1e-5)


def test_what_is_no_date_is_refused(url: str) -> None:
    body = {"instances": [{**ROW, "built": "yesterday"}]}
    reply = requests.post(f"{url}/predict", json=body, timeout=20)
    assert reply.status_code == 400
    assert reply.json()["error"] == (
        "instances[0].built: expected a date such as 2024-03-01 or 2024-03-01T12:30:00Z, "
        'got the string "yesterday"'
    )


TABLE = f"""key;{LABEL_NAME};balcony;size;built;city;rooms
a1;yes; FALSE ;40,0; 01.03.2024 ; Basel;2
=b;no;NA;-;?;#N/A;.
"""


def test_the_training_file_is_scored_as_it_is(url: str) -> None:
    reply = requests.post(
        f"{url}/predict?id=key&outputs=logit",
        data=TABLE.encode(),
        headers={"Content-Type": "text/csv"},
        timeout=20,
    )
    assert reply.status_code == 200, reply.text
    assert reply.headers["X-Ignored-Columns"] == LABEL_NAME
    assert reply.headers["X-Missing-Imputed"] == "5"
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["key"] for row in rows] == ["a1", "'=b"]
    np.testing.assert_allclose([float(row["logit"]) for row in rows], [LOGIT, NOTHING], rtol=1e-5)
    lines = f"{json.dumps(ROW)}\n{{}}\n{json.dumps({**ROW, 'size': 'x'})}\n"
    for content_type in ("application/jsonl", "application/x-ndjson"):
        reply = requests.post(
            f"{url}/predict?on_error=row",
            data=lines,
            headers={"Content-Type": content_type},
            timeout=20,
        )
        found = [json.loads(line) for line in reply.text.splitlines()]
        assert found[0]["logit"] == pytest.approx(LOGIT, rel=1e-5)
        assert 'line 2: column "size" (float32) is missing' in found[1]["error"]
        assert 'line 3, column "size": expected a number' in found[2]["error"]
    reply = requests.post(
        f"{url}/predict",
        data=b"PAR1",
        headers={"Content-Type": "application/vnd.apache.parquet"},
        timeout=20,
    )
    assert reply.status_code == 415
    assert "Content-Type: expected one of application/json, text/csv" in reply.json()["error"]


def test_a_file_is_scored_as_it_is(server: str, tmp_path: Path) -> None:
    file = tmp_path / "flats.csv.gz"
    file.write_bytes(gzip.compress(TABLE.encode()))
    arguments = ("predict", str(file), "--model=flats", f"--server={server}")
    done = client(*arguments, "--keep=key", "--keep=built", "--output=logit", "--no-csv-guard")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"ignored columns: {LABEL_NAME}\n"
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert [row[:2] for row in rows] == [["key", "built"], ["a1", " 01.03.2024 "], ["=b", "?"]]
    refused = client(*arguments, "--tls", "--ca=/nosuch.pem")
    assert refused.returncode != 0
    assert "nosuch.pem" in refused.stderr


def test_an_example_is_a_request_that_is_answered(server: str, url: str) -> None:
    arguments = ("example", "--model=flats", f"--server={server}")
    done = client(*arguments)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["instances"][0] == {
        "size": 50.5,
        "built": "2019-04-14",
        "city": "Bern",
        "rooms": 3,
        "balcony": True,
    }
    reply = requests.post(f"{url}/predict", json=body, timeout=20)
    assert len(reply.json()["predictions"]) == 2
    words = shlex.split(client(*arguments, "--curl", "--version=1").stdout)
    assert words[:2] == ["curl", "http://127.0.0.1:8080/v1/models/flats/versions/1:predict"]
    assert json.loads(words[-1]) == body
    unknown = client(*arguments, "--signature=nosuch")
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
