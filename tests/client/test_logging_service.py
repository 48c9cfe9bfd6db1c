"""The prediction log, ids, drift counts and feedback of a running service, in every dialect."""

from __future__ import annotations

import io
import json
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import requests

from tests.conftest import Starter
from tests.support import forked
from tests.support.processes import wait_for
from tests.support.tables import breast_cancer

ROWS: npt.NDArray[np.float64] = breast_cancer().features[:40]
NAMES = list(breast_cancer().columns)
CLASSES = ("malignant", "benign")
EXPECTED_ROW = f"row: expected an integer from 0 to {2**53 - 1}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def url(model_server: str, directory: Path) -> Iterator[str]:
    """The URL of a service that logs."""
    log = directory.parent / "client.log"
    with forked.client(log, model_server, CLIENT_LOG=str(directory)) as url:
        yield url


def read_log(directory: Path) -> list[Any]:
    """Return the rows of the log."""
    files = sorted(directory.glob("*.ndjson*"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def wait_for_rows(directory: Path, identity: str, count: int) -> list[Any]:
    """Wait until all rows of a request are logged, and return them."""

    def matching_rows() -> list[Any]:
        return [row for row in read_log(directory) if row["id"] == identity]

    wait_for(lambda: len(matching_rows()) >= count, f"{count} rows of {identity}", 10)
    assert len(matching_rows()) == count
    return sorted(matching_rows(), key=lambda row: int(row["row"]))


def metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have the given labels."""
    pairs = [f'{key}="{value}"' for key, value in labels.items()]
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(pair in line for pair in pairs)
    )


def drift_counts(url: str, column: str) -> dict[str, int]:
    """Return a column's row counts by bin."""
    counts: Counter[str] = Counter()
    for line in requests.get(f"{url}/metrics", timeout=10).text.splitlines():
        if line.startswith("client_drift_rows_total{") and f'column="{column}"' in line:
            label = line.partition('bin="')[2].partition('"')[0]
            counts[label] += int(float(line.rpartition(" ")[2]))
    return {label: count for label, count in counts.items() if count}


def predict(url: str, dialect: str, rows: npt.NDArray[np.float64], **headers: str) -> Any:
    """Send rows in one of the dialects, and return the response."""
    values = rows.tolist()
    json_type = {"Content-Type": "application/json"}
    by_name = [dict(zip(NAMES, row, strict=True)) for row in values]
    matrix = io.BytesIO()
    np.save(matrix, rows.astype(np.float32))
    csv = [",".join(NAMES), *(",".join(map(str, row)) for row in values)]
    tensor = {
        "name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": values,
    }  # fmt: skip
    v2 = {"inputs": [tensor], "parameters": {"signature_name": "dense"}}
    base = "/v1/models/breast_cancer"
    requests_by_dialect: dict[str, tuple[str, str | bytes, dict[str, str]]] = {
        "rows": ("/predict", json.dumps({"instances": values}), json_type),
        "columns": (
            "/predict",
            json.dumps({"inputs": dict(zip(NAMES, rows.T.tolist(), strict=True))}),
            json_type,
        ),
        "v1": (f"{base}:predict", json.dumps({"instances": by_name}), json_type),
        "v1 version": (f"{base}/versions/1:predict", json.dumps({"instances": values}), json_type),
        "v2": ("/v2/models/breast_cancer/infer", json.dumps(v2), json_type),
        "csv": ("/predict", "\n".join(csv), {"Content-Type": "text/csv"}),
        "npy": ("/predict", matrix.getvalue(), {"Content-Type": "application/x-npy"}),
    }
    path, body, content_type = requests_by_dialect[dialect]
    response = requests.post(f"{url}{path}", body, headers={**content_type, **headers}, timeout=30)
    assert response.status_code == 200, response.text
    return response


DIALECTS = ("rows", "columns", "v1", "v1 version", "v2", "csv", "npy")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_of_every_dialect_are_logged_and_counted(
    url: str, directory: Path, dialect: str
) -> None:
    before = drift_counts(url, "mean_radius")
    response = predict(url, dialect, ROWS)
    identity = response.headers["X-Prediction-ID"]
    assert uuid.UUID(identity).version == 7
    rows = wait_for_rows(directory, identity, len(ROWS))
    assert [row["row"] for row in rows] == list(range(len(ROWS)))
    for row, values in zip(rows, ROWS, strict=True):
        assert list(row["columns"]) == NAMES
        # A float32 with its shortest digits is the number that was sent.
        np.testing.assert_allclose(list(row["columns"].values()), values, rtol=1e-6)
        assert (row["model"], row["version"], row["share"]) == ("breast_cancer", 1, 1.0)
        assert 0 < row["seconds"] < 30
        assert row["label"] == CLASSES[row["probability"] >= 0.5]
    after = drift_counts(url, "mean_radius")
    assert sum(after.values()) - sum(before.values()) == len(ROWS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_unrecorded_requests_are_neither_logged_nor_counted(
    url: str, directory: Path, dialect: str
) -> None:
    before = drift_counts(url, "mean_radius")
    headers = {"X-Prediction-Record": "no", "X-Request-ID": f"trial-{dialect.replace(' ', '-')}"}
    assert "X-Prediction-ID" not in predict(url, dialect, ROWS, **headers).headers
    after = predict(url, dialect, ROWS[:1]).headers["X-Prediction-ID"]
    wait_for_rows(directory, after, 1)  # logged after the others would have been
    assert headers["X-Request-ID"] not in {row["id"] for row in read_log(directory)}
    assert sum(drift_counts(url, "mean_radius").values()) - sum(before.values()) == 1


def test_invalid_record_header_is_rejected(url: str) -> None:
    headers = {"X-Prediction-Record": "maybe"}
    response = requests.post(
        f"{url}/predict", json={"instances": ROWS.tolist()}, headers=headers, timeout=10
    )
    assert response.status_code == 400
    assert response.json()["error"] == 'X-Prediction-Record: expected yes or no, got "maybe"'


def test_drift_counts_match_an_offline_computation(
    url: str, model_server: str, directory: Path
) -> None:
    from client import ServingClient

    with ServingClient(model_server) as client:
        description = client.schema("breast_cancer").description
    assert description is not None
    assert description.reference is not None
    reference = {c["name"]: c for c in json.loads(description.reference)["columns"]}
    before = {name: drift_counts(url, name) for name in (*NAMES[:5], "")}
    predict(url, "rows", ROWS)
    for name, values in zip(NAMES[:5], ROWS.T[:5], strict=True):
        edges = np.array(reference[name]["edges"], np.float32)
        bins = np.searchsorted(edges, values.astype(np.float32))
        expected = Counter(map(str, bins.tolist()))
        expected.update(before[name])
        assert drift_counts(url, name) == dict(expected)
    assert sum(drift_counts(url, "").values()) == sum(before[""].values()) + len(ROWS)


def test_stats_show_drift_and_the_log(url: str) -> None:
    for _ in range(10):
        predict(url, "rows", ROWS)
    wait_for(
        lambda: metric(url, "client_log_rows_total") == sum(drift_counts(url, "").values()),
        "every row is recorded",
        10,
    )
    stats = requests.get(f"{url}/stats", timeout=10).json()
    assert stats["feedback"] is True
    assert stats["log"]["rows"] == metric(url, "client_log_rows_total")
    assert stats["log"]["dropped"] == {"disk": 0, "error": 0, "queue": 0}
    assert stats["drift"]["rows"] == sum(drift_counts(url, "mean_area").values())
    assert {column["column"] for column in stats["drift"]["columns"]} == {*NAMES, ""}
    # The first rows of the table are nearly all of one class.
    assert stats["drift"]["columns"][0]["verdict"] in ("warn", "alarm")


def test_prediction_id_is_the_caller_s_request_id_if_valid(url: str, directory: Path) -> None:
    response = predict(url, "rows", ROWS[:2], **{"X-Request-ID": "order-17"})
    assert response.headers["X-Prediction-ID"] == response.headers["X-Request-ID"] == "order-17"
    assert len(wait_for_rows(directory, "order-17", 2)) == 2
    # An id that could not be logged safely is replaced.
    response = predict(url, "csv", ROWS[:2], **{"X-Request-ID": "no spaces, please"})
    assert uuid.UUID(response.headers["X-Prediction-ID"]).version == 7
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 30], "data": ROWS[0].tolist()}
    body = {"id": "of-v2", "inputs": [tensor], "parameters": {"signature_name": "dense"}}
    infer_url = f"{url}/v2/models/breast_cancer/infer"
    response = requests.post(infer_url, json=body, timeout=30)
    assert response.headers["X-Prediction-ID"] == response.json()["id"] == "of-v2"
    wait_for_rows(directory, "of-v2", 1)
    response = requests.post(infer_url, json={**body, "id": "split\r\nheader: x"}, timeout=30)
    assert uuid.UUID(response.headers["X-Prediction-ID"]).version == 7


def test_row_numbers_of_a_table_include_refused_rows(url: str, directory: Path) -> None:
    lines = [",".join(map(str, row)) for row in ROWS[:4].tolist()]
    lines[1] = lines[1].replace(",", ",x", 1)
    body = "\n".join([",".join(NAMES), *lines])
    headers = {"Content-Type": "text/csv", "X-Request-ID": "table-1"}
    response = requests.post(f"{url}/predict?on_error=row", body, headers=headers, timeout=30)
    assert response.status_code == 200
    assert [row["row"] for row in wait_for_rows(directory, "table-1", 3)] == [0, 2, 3]


def test_explanations_and_errors_have_no_prediction_id(url: str) -> None:
    response = requests.post(f"{url}/explain", json={"instances": ROWS[:1].tolist()}, timeout=30)
    assert response.ok
    assert "X-Prediction-ID" not in response.headers
    response = requests.post(f"{url}/predict", json={"instances": [[1]]}, timeout=30)
    assert response.status_code == 400
    assert "X-Prediction-ID" not in response.headers


def test_without_a_log_there_are_no_ids_and_no_feedback(client_url: str) -> None:
    for dialect in ("rows", "csv"):
        assert "X-Prediction-ID" not in predict(client_url, dialect, ROWS[:1]).headers
    response = requests.post(f"{client_url}/feedback", json={"id": "x", "label": "y"}, timeout=30)
    assert response.status_code == 404
    assert "set CLIENT_LOG to a directory" in response.json()["error"]
    assert "/feedback" not in requests.get(f"{client_url}/openapi.json", timeout=30).json()["paths"]
    assert drift_counts(client_url, "mean_radius")  # still counted


def test_several_workers_record_every_row(
    model_server: str, starter: Starter, tmp_path: Path
) -> None:
    client = starter.client(
        model_server,
        CLIENT_LOG=str(tmp_path / "log"),
        CLIENT_WORKERS="2",
        CLIENT_LOG_LEAVE_OUT="mean_radius, nosuch",
    )
    sent = 0
    for _ in range(20):  # each on its own connection, so that both workers get some
        predict(client.address, "rows", ROWS[:3])
        sent += 3
    predict(client.address, "npy", ROWS)
    sent += len(ROWS)
    url = client.address
    wait_for(lambda: metric(url, "client_log_rows_total") == sent, "all rows are recorded", 10)
    assert metric(url, "client_log_dropped_rows_total") == 0
    # The other worker publishes its counts within a second.
    wait_for(
        lambda: sum(drift_counts(url, "mean_area").values()) == sent, "all rows are counted", 5
    )
    assert client.stop() == 0
    files = list((tmp_path / "log").glob("*"))
    assert {file.suffix for file in files} == {".ndjson", ""}  # and the feedback directory
    rows = read_log(tmp_path / "log")
    assert len(rows) == sent
    assert all("mean_radius" not in row["columns"] for row in rows)
    assert client.output().count('has no column \\"nosuch\\"') == 2  # once in each worker


def test_sigkill_loses_at_most_a_second_of_rows(
    model_server: str, starter: Starter, tmp_path: Path
) -> None:
    client = starter.client(model_server, CLIENT_LOG=str(tmp_path / "log"))
    for _ in range(3):
        predict(client.address, "rows", ROWS)
    wait_for(lambda: len(read_log(tmp_path / "log")) == 120, "the rows are written", 1)
    workers = psutil.Process(client.process.pid).children()
    client.stop(signal.SIGKILL)
    psutil.wait_procs(workers, timeout=10)
    starter.client(model_server, CLIENT_LOG=str(tmp_path / "log"))
    wait_for(lambda: not list((tmp_path / "log").glob("*.open")), "a successor seals the rest", 10)
    assert len(list((tmp_path / "log").glob("*.ndjson"))) == 1
    assert len(read_log(tmp_path / "log")) == 120


def test_unwritable_log_directory_fails_no_prediction(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, CLIENT_LOG="/proc/nosuch")
    for dialect in ("rows", "csv"):
        assert "X-Prediction-ID" in predict(client.address, dialect, ROWS).headers
    url = client.address
    wait_for(
        lambda: metric(url, "client_log_dropped_rows_total", reason="disk") == 2 * len(ROWS),
        "the rows are dropped and counted",
        10,
    )
    response = requests.post(f"{url}/feedback", json={"id": "x", "label": "benign"}, timeout=30)
    assert response.status_code == 503
    assert "feedback cannot be stored" in response.json()["error"]
    assert metric(url, "client_feedback_total") == 0


# Feedback.


def read_feedback(directory: Path) -> list[Any]:
    return read_log(directory / "feedback")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", '{"id": "%s", "label": "benign"}'),
        ("application/json", '[{"id": "%s", "label": "benign", "row": 0, "time": null}]'),
        ("application/x-ndjson", '{"id": "%s", "label": "benign"}\n\n'),
        ("text/csv", "id,label\r\n%s,benign\r\n"),
        ("text/csv; charset=utf-8", '\ufeffrow,time,"label",id\n,, benign ,"%s"'),
        ("text/tab-separated-values", "label\tid\nbenign\t%s"),
    ],
)
def test_feedback_in_every_format_is_stored(
    url: str, directory: Path, content_type: str, body: str
) -> None:
    identity = str(uuid.uuid4())
    before = metric(url, "client_feedback_total", result="accepted")
    headers = {"Content-Type": content_type}
    response = requests.post(
        f"{url}/feedback", (body % identity).encode(), headers=headers, timeout=30
    )
    assert (response.status_code, response.json()) == (
        202,
        {"accepted": 1, "refused": 0, "errors": []},
    )
    (stored,) = (row for row in read_feedback(directory) if row["id"] == identity)
    assert stored == {
        "format": 1, "id": identity, "row": 0, "label": "benign", "time": stored["received"],
        "received": stored["received"], "caller": None,
    }  # fmt: skip
    assert metric(url, "client_feedback_total", result="accepted") == before + 1


def test_late_and_repeated_feedback_is_kept_with_its_time(url: str, directory: Path) -> None:
    rows = [
        {"id": "late", "row": 3, "label": "benign", "time": "2026-01-31"},
        {"id": "late", "row": 3, "label": "malignant", "time": "2026-02-01T12:00:00+02:00"},
    ]
    assert requests.post(f"{url}/feedback", json=rows, timeout=30).status_code == 202
    stored = [row for row in read_feedback(directory) if row["id"] == "late"]
    assert [(row["row"], row["label"], row["time"]) for row in stored] == [
        (3, "benign", "2026-01-31T00:00:00.000Z"),
        (3, "malignant", "2026-02-01T10:00:00.000Z"),
    ]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"id": "x", "label": "bad"}, "label: expected one of malignant, benign, got the string"),
        ({"id": "x", "label": None}, "label: expected one of malignant, benign, got null"),
        ({"id": "x", "label": 1.0}, "label: expected one of malignant, benign, got 1.0"),
        ({"label": "benign"}, "id: expected the prediction's X-Prediction-ID, got null"),
        ({"id": "a b", "label": "benign"}, "id: expected the prediction's X-Prediction-ID"),
        ({"id": "x", "label": "benign", "row": -1}, f"{EXPECTED_ROW}, got -1"),
        ({"id": "x", "label": "benign", "row": True}, f"{EXPECTED_ROW}, got true"),
        ({"id": "x", "label": "benign", "time": "soon"}, 'time: expected a date such as'),
        ({"id": "x", "label": "benign", "time": 5}, "time: expected a date such as"),
        ({"id": "x", "label": "benign", "vote": 1}, 'unknown field "vote"; expected id, row'),
        ([1], "expected an object with id and label, got a list of 1"),
    ],
)  # fmt: skip
def test_invalid_feedback_row_is_refused_with_its_line(url: str, row: Any, error: str) -> None:
    valid = {"id": "good", "label": "benign"}
    response = requests.post(f"{url}/feedback", json=[valid, row], timeout=30)
    assert response.status_code == 202  # the valid row is accepted
    result = response.json()
    assert (result["accepted"], result["refused"]) == (1, 1)
    assert result["errors"][0]["line"] == 2
    assert result["errors"][0]["error"].startswith(error)
    response = requests.post(f"{url}/feedback", f"{json.dumps(row)}\n", timeout=30,
                          headers={"Content-Type": "application/x-ndjson"})  # fmt: skip
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"line 1: {error}")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "error"),
    [
        ("application/json", "", 400, "the body is not JSON"),
        ("application/json", "[]", 400, "expected at least one row, got none"),
        ("application/json", "7", 400, "line 1: expected an object with id and label, got 7"),
        ("application/x-ndjson", "", 400, "expected at least one row, got none"),
        ("application/x-ndjson", "{", 400, "line 1: not JSON"),
        ("text/csv", "id,label\n", 400, "expected at least one row, got none"),
        ("text/csv", "id,lable\nx,benign", 400, 'line 1: unknown column "lable"; expected id, row'),
        ("text/csv", "id,id,label\n", 400, 'line 1: duplicate column "id"'),
        ("text/csv", "id\nx", 400, 'line 1: column "label" is missing'),
        ("text/csv", "id,label\nx", 400, "line 2: expected 2 cells as in the header, got 1"),
        ("text/csv", 'id,label\nx,"benign', 400, "line 2: unexpected end of data"),
        ("text/csv", "PK\x03\x04", 400, "expected lines of text in UTF-8, got a zip archive"),
        ("text/plain", "id,label\n", 415, "Content-Type: expected one of application/json, "),
    ],
)
def test_malformed_feedback_is_rejected(
    url: str, content_type: str, body: str, status: int, error: str
) -> None:
    headers = {"Content-Type": content_type}
    response = requests.post(f"{url}/feedback", body, headers=headers, timeout=30)
    assert response.status_code == status
    assert response.json()["error"].startswith(error)


def test_labels_are_checked_against_the_model_in_the_query(url: str) -> None:
    row = {"id": "x", "label": "benign"}
    response = requests.post(f"{url}/feedback?model=breast_cancer", json=row, timeout=30)
    assert response.status_code == 202
    response = requests.post(f"{url}/feedback?model=nosuch", json=row, timeout=30)
    assert response.status_code == 404
