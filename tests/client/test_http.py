"""The HTTP endpoints, served as in production, in front of a real model server."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from client import ServingClient
from client.http.api_keys import hash_key, new_key
from tests.client.bodies import npy as as_npy
from tests.conftest import Starter
from tests.support.processes import free_port
from tests.support.tables import breast_cancer

TABLE = breast_cancer()
ROWS = TABLE.features[[0, 19, 40]]
EXAMPLES = [dict(zip(TABLE.columns, ROWS[0].tolist(), strict=True))]
PREDICT = "/v1/models/breast_cancer:predict"


def post(url: str, body: Any, **options: Any) -> requests.Response:
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    return requests.post(url, data=data, timeout=30, **options)


@pytest.fixture(scope="module")
def expected(model_server: str) -> dict[str, Any]:
    with ServingClient(model_server) as server:
        response = server.predict("breast_cancer", {"features": ROWS}, signature_name="dense")
        return {name: values.tolist() for name, values in response.outputs.items()}


def check(predictions: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    assert [p["label"] for p in predictions] == expected["label"]
    for name in ("probability", "logit"):
        np.testing.assert_allclose([p[name] for p in predictions], expected[name], rtol=1e-5)


@pytest.mark.parametrize(
    "path", [PREDICT, "/v1/models/breast_cancer/versions/1:predict", "/predict"]
)
def test_rows_by_name_and_in_column_order_get_the_same_predictions(
    client_url: str, path: str, expected: dict[str, Any]
) -> None:
    by_name = [dict(zip(TABLE.columns, row, strict=True)) for row in ROWS.tolist()]
    for instances in (by_name, ROWS.tolist()):
        response = post(client_url + path, {"instances": instances})
        assert response.status_code == 200, response.text
        assert response.headers["Content-Type"] == "application/json"
        check(response.json()["predictions"], expected)


def test_predict_returns_the_model_and_its_version(client_url: str) -> None:
    response = post(f"{client_url}/predict", {"instances": ROWS.tolist()}).json()
    assert (response["model"], response["version"]) == ("breast_cancer", 1)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("predict", {"instances": ROWS.tolist()}),
        ("explain", {"instances": ROWS.tolist()}),
        ("classify", {"signature_name": "classification", "examples": EXAMPLES}),
        ("regress", {"signature_name": "regression", "examples": EXAMPLES}),
    ],
)
def test_response_header_names_the_version(
    client_url: str, verb: str, body: dict[str, Any]
) -> None:
    response = post(f"{client_url}/v1/models/breast_cancer:{verb}", body)
    assert response.status_code == 200, response.text
    assert response.headers["X-Model-Version"] == "1"


def test_requests_in_columns_get_responses_in_columns(
    client_url: str, expected: dict[str, Any]
) -> None:
    inputs = {name: ROWS[:, i].tolist() for i, name in enumerate(TABLE.columns)}
    outputs = post(client_url + PREDICT, {"inputs": inputs}).json()["outputs"]
    np.testing.assert_allclose(outputs["logit"], expected["logit"], rtol=1e-5)
    dense = {"inputs": ROWS.tolist(), "signature_name": "dense"}
    assert post(client_url + PREDICT, dense).json()["outputs"].keys() == outputs.keys()


def test_contributions_and_bias_add_up_to_the_logit(
    client_url: str, expected: dict[str, Any]
) -> None:
    body = {"instances": ROWS.tolist(), "signature_name": "explain"}
    explanations = post(client_url + PREDICT, body).json()["predictions"]
    totals = [sum(row["contribution"]) + row["bias"] for row in explanations]
    np.testing.assert_allclose(totals, expected["logit"], rtol=1e-4)


ONES = ",".join(["1"] * 29)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", b"", 400, "the body is empty; expected {"),
        ("/predict", b"  \n", 400, "the body is empty"),
        ("/predict", b'{"instances": [', 400, "the body is not JSON: "),
        ("/predict", b"\xff\xfe", 400, "the body is not JSON: "),
        ("/predict", b"[" * 100_000, 400, "the body is not JSON: "),
        ("/predict", b'{"instances": [[1e400]]}', 400, "the body is not JSON: "),
        ("/predict", b"null", 400, "the body is null"),
        (
            "/predict",
            {"instances": [{"mean_radius": 1}]},
            400,
            '"mean_texture" (float32) is missing, and 28 more',
        ),
        (
            "/predict",
            {"instances": [{"radius": 1}]},
            400,
            'unknown column "radius"; the columns are',
        ),
        (
            "/predict",
            f'{{"instances": [["a",{ONES}]]}}',
            400,
            "instances[0].mean_radius: expected a ",
        ),
        (
            "/predict",
            {"instances": [[1, 2]]},
            400,
            "expected 30 values in the order mean_radius, m",
        ),
        (
            "/predict",
            {"instances": [1], "signature_name": "x"},
            400,
            'no "x"; it has classification,',
        ),
        ("/predict", {"instances": []}, 400, "instances: expected at least one row"),
        ("/v1/models/nosuch:predict", {"instances": [1]}, 404, "Latest(nosuch)"),
        ("/v1/models/breast_cancer/versions/7:predict", {"instances": [1]}, 404, "Specific(breast"),
        (
            "/v1/models/breast_cancer/versions/x:predict",
            {"instances": [1]},
            400,
            "Malformed request: ",
        ),
        (
            "/predict",
            {"signature_name": "describe", "instances": [0] * 2000},
            400,
            "at most 1024",
        ),
        (
            "/predict",
            f'{{"instances": [[3e39,{ONES}]]}}',
            400,
            "instances[0].mean_radius: expected at",
        ),
        ("/v1/models/breast_cancer/labels/x:predict", {"instances": [1]}, 400, "label: x"),
        # Bad JSON is reported before errors of the model, the version or the label.
        ("/v1/models/nosuch:predict", b"{", 400, "the body is not JSON: "),
        ("/v1/models/breast_cancer/versions/7:predict", b"[]", 400, "the body is a list of 0"),
        ("/v1/models/breast_cancer/labels/x:predict", b"{", 400, "the body is not JSON: "),
        ("/v1/models/breast_cancer:explain", b"{", 400, "the body is not JSON"),
        ("/v1/models/breast_cancer/labels/x:explain", {"instances": [1]}, 400, "label: x"),
        ("/v1/models/nosuch:explain", {"instances": [1]}, 404, "Latest(nosuch)"),
        ("/nosuch", {}, 404, "POST /nosuch: Not Found"),
        ("/livez", {}, 405, "POST /livez: Method Not Allowed"),
    ],
)
def test_errors_have_the_expected_status_and_message(
    client_url: str, path: str, body: Any, status: int, message: str
) -> None:
    response = post(client_url + path, body)
    assert response.status_code == status, response.text
    problem = response.json()
    assert message in problem["error"]
    if path.startswith(("/v1/", "/v2")):
        assert response.headers["Content-Type"] == "application/json"
        assert set(problem) == {"error"}
    else:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert problem["title"] == HTTPStatus(status).phrase
        assert (problem["type"], problem["status"]) == ("about:blank", status)
        assert problem["detail"] == problem["error"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize("version", [2**63, 2**70, "9" * 5000])
def test_out_of_range_version_is_400_as_in_tensorflow_serving(
    client_url: str, version: int | str
) -> None:
    url = f"{client_url}/v1/models/breast_cancer/versions/{version}"
    for response in (
        requests.get(url, timeout=5),
        post(f"{url}:predict", {"instances": [1]}),
        post(f"{url}:explain", {"instances": [1]}),
    ):
        assert response.status_code == 400
        assert response.json() == {"error": "version: expected at most 9223372036854775807"}


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit_is_rejected(
    model_server: str, starter: Starter, chunked: bool
) -> None:
    client = starter.client(model_server, CLIENT_MAX_BODY_BYTES="20000")
    body = json.dumps({"instances": ROWS.tolist()}).encode()
    assert len(body) < 20_000
    for data, status in ((body, 200), (body + b" " * 20_000, 413)):
        payload: Any = iter([data]) if chunked else data
        response = requests.post(client.address + PREDICT, data=payload, timeout=30)
        assert response.status_code == status, response.text
    assert response.json() == {"error": "the body is too large; expected at most 20000 bytes"}


BODY = json.dumps({"instances": ROWS.tolist()}).encode()


@pytest.mark.parametrize(
    ("encoding", "data", "status", "message"),
    [
        ("gzip", gzip.compress(BODY), 200, ""),
        ("identity", BODY, 200, ""),
        ("gzip", BODY, 400, "the body does not match its Content-Encoding"),
        ("gzip", gzip.compress(BODY)[:-20], 400, "it is truncated"),
        ("gzip", gzip.compress(bytes(20 * 2**20)), 413, "expected at most 16777216 bytes"),
        ("GZIP", gzip.compress(BODY[:99]) + gzip.compress(BODY[99:]), 200, ""),
        ("gzip", gzip.compress(BODY) + b"garbage", 400, "its Content-Encoding: Error -3"),
        ("deflate", zlib.compress(BODY) + b"x", 400, "there is data after the compressed stream"),
        ("", BODY, 200, ""),
        ("br", BODY, 415, "expected gzip, deflate or a plain body, got br"),
    ],
)
def test_compressed_body_is_decoded_or_rejected(
    client_url: str, encoding: str, data: bytes, status: int, message: str
) -> None:
    response = post(client_url + PREDICT, data, headers={"Content-Encoding": encoding})
    assert response.status_code == status
    assert message in response.json().get("error", "")


def test_status_and_metadata(client_url: str) -> None:
    for path in ("", "/versions/1"):
        response = requests.get(f"{client_url}/v1/models/breast_cancer{path}", timeout=5)
        assert response.json() == {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }
    response = requests.get(f"{client_url}/v1/models/breast_cancer/metadata", timeout=5).json()
    assert response["model_spec"] == {"name": "breast_cancer", "signature_name": "", "version": "1"}
    signatures = response["metadata"]["signature_def"]["signature_def"]
    features = signatures["dense"]["inputs"]["features"]
    assert features["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in features["tensor_shape"]["dim"]] == ["-1", "30"]
    missing = requests.get(f"{client_url}/v1/models/nosuch", timeout=5)
    assert missing.status_code == 404
    assert missing.json()["error"] == "Could not find any versions of model nosuch"


def test_livez_and_readyz(client_url: str) -> None:
    assert requests.get(f"{client_url}/livez", timeout=5).json() == {"status": "alive"}
    assert requests.get(f"{client_url}/readyz", timeout=5).json() == {
        "status": "ready",
        "model": "breast_cancer",
        "versions": [1],
    }


def test_golden_rows_are_checked_before_the_service_is_ready(client_url: str) -> None:
    text = requests.get(f"{client_url}/metrics", timeout=5).text
    results = {
        line.split('result="')[1].split('"')[0]: float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith('client_golden{model="breast_cancer"')
    }
    assert results == {"ok": 1, "wrong": 0, "none": 0}
    assert "client_arm_calls_total{" not in text


def test_service_is_not_ready_without_its_model(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server, ready=False, CLIENT_MODEL="nosuch")
    response = requests.get(f"{client.address}/readyz", timeout=5)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert "nosuch" in response.json()["error"]
    page = requests.get(client.address, timeout=5)
    assert page.status_code == 404
    assert "not available yet" in page.text


def test_metrics_count_requests_and_calls(model_server: str, starter: Starter) -> None:
    client = starter.client(model_server)
    post(client.address + PREDICT, {"instances": ROWS.tolist()})
    post(client.address + PREDICT, b"")
    for name in ("a", "b", "c"):
        requests.get(f"{client.address}/v1/models/{name}", timeout=5)
    text = requests.get(f"{client.address}/metrics", timeout=5).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def value(metric: str, **labels: str) -> float:
        return sum(
            s.value for s in samples if s.name == metric and labels.items() <= s.labels.items()
        )

    route = "/v1/models/<model>:predict"
    assert value("client_http_requests_total", route=route, status="200") == 1
    assert value("client_http_requests_total", route=route, status="400") == 1
    # Invented names do not become time series.
    assert value("client_http_requests_total", route="/v1/models/<model>", status="404") == 3
    assert value("client_grpc_call_seconds_count", rpc="Predict", code="OK") >= 1
    assert value("client_http_request_seconds_count", route=route) == 2
    assert value("client_http_requests_in_flight") == 1  # the scrape itself


def test_requests_without_a_required_key_get_a_challenge(
    model_server: str, starter: Starter, tmp_path: Path
) -> None:
    key = new_key()
    file = tmp_path / "keys"
    file.write_text(f"shop {hash_key(key)}\n")
    client = starter.client(model_server, CLIENT_API_KEYS=str(file))
    for path in ("/", "/docs/", "/static/page.css", "/nosuch", "/v1/models/breast_cancer"):
        response = requests.get(client.address + path, timeout=10)
        assert response.status_code == 401, path
        assert 'Basic realm="predictions"' in response.headers["WWW-Authenticate"]
        assert "API key required" in response.json()["error"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert requests.get(client.address, auth=("", key), timeout=10).status_code == 200
    # Authentication comes before the body.
    with socket.create_connection(("127.0.0.1", urlsplit(client.address).port or 0), 5) as stalled:
        stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert stalled.recv(100).startswith(b"HTTP/1.1 401 ")
    assert "Traceback" not in client.output()


def test_request_may_set_its_own_threshold(client_url: str) -> None:
    body = {"instances": ROWS.tolist()}
    default = post(f"{client_url}/predict", body).json()
    assert default["threshold"] == 0.5
    for threshold in (0, 0.999999, 1):
        custom = post(f"{client_url}/predict", {**body, "threshold": threshold}).json()
        assert custom["threshold"] == threshold
        for prediction, other in zip(custom["predictions"], default["predictions"], strict=True):
            assert prediction["probability"] == other["probability"]
            is_benign = prediction["probability"] >= threshold
            assert prediction["label"] == ("benign" if is_benign else "malignant")
    for fields, message in (
        ({"threshold": 1.5}, "threshold: expected a number from 0 to 1, got 1.5"),
        ({"threshold": "0.5"}, "threshold: expected a number from 0 to 1, got the string"),
        ({"threshold": 0.5, "signature_name": "explain"}, 'signature "explain" has no label'),
    ):
        response = post(f"{client_url}/predict", {**body, **fields})
        assert response.status_code == 400
        assert message in response.json()["error"]


def training_ranges(model_server: str) -> tuple[list[float], list[float]]:
    """Return the minimum and the maximum of each column in training."""
    with ServingClient(model_server) as server:
        description = server.schema("breast_cancer").description
    assert description is not None
    return [c.minimum for c in description.columns], [c.maximum for c in description.columns]


OUTPUTS = {"probability", "label", "logit"}


def test_out_of_range_numbers_are_predicted_and_counted(
    model_server: str, starter: Starter
) -> None:
    minimums, maximums = training_ranges(model_server)
    above = [maximums[0] * 1.001, *maximums[1:]]
    below = [minimums[0], minimums[1] - 1, *minimums[2:]]
    url = starter.client(model_server).address
    rows = as_npy(np.array([above, maximums, minimums], np.float32))
    for response in (
        post(url + PREDICT, {"instances": [above, maximums, below]}),
        post(f"{url}/explain", {"instances": [above, minimums]}),
        post(url + PREDICT, rows, headers={"Content-Type": "application/x-npy"}),
    ):
        assert response.status_code == 200, response.text
    text = requests.get(f"{url}/metrics", timeout=5).text
    counts = {
        (sample.labels["model"], sample.labels["column"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "client_values_out_of_range_total"
    }
    first, second, *_ = TABLE.columns
    assert counts == {("breast_cancer", first): 3, ("breast_cancer", second): 1}


def test_out_of_range_numbers_are_refused_if_configured(
    model_server: str, starter: Starter
) -> None:
    minimums, maximums = training_ranges(model_server)
    url = starter.client(model_server, CLIENT_OUT_OF_RANGE="refuse").address
    inside = [minimums, maximums]
    assert post(url + PREDICT, {"instances": inside}).status_code == 200
    outside = [minimums, [*maximums[:3], 99999.0, *maximums[4:]]]
    column = TABLE.columns[3]
    low, high = np.float32(minimums[3]), np.float32(maximums[3])
    message = (
        f'row 2, column "{column}": expected a number from {low} to {high}, '
        "as in training, got 99999.0"
    )
    named = dict(zip(TABLE.columns, map(list, zip(*outside, strict=True)), strict=True))
    tensor = {"name": "features", "shape": [2, 30], "datatype": "FP32", "data": outside}
    for path, body, headers in (
        (PREDICT, {"instances": outside}, {}),
        ("/predict", {"inputs": named}, {}),
        ("/explain", {"instances": outside}, {}),
        (PREDICT, as_npy(np.array(outside)), {"Content-Type": "application/x-npy"}),
        (
            "/v2/models/breast_cancer/infer",
            {"inputs": [tensor], "parameters": {"signature_name": "dense"}},
            {},
        ),
    ):
        response = post(url + path, body, headers=headers)
        assert (response.status_code, response.json()["error"]) == (400, message), path
    # A malformed line comes before the refused row, and a valid one after it.
    lines = [
        ",".join(map(str, row)) for row in (minimums, ["x", *maximums[1:]], outside[1], maximums)
    ]
    response = requests.post(
        f"{url}/predict?on_error=row",
        data="\n".join([",".join(TABLE.columns), *lines]),
        headers={"Content-Type": "text/csv", "Accept": "application/json"},
        timeout=20,
    )
    rows = response.json()["predictions"]
    assert [set(row) for row in rows] == [OUTPUTS, {"error"}, {"error"}, OUTPUTS]
    assert rows[1]["error"].startswith("line 3")
    assert rows[2]["error"] == message.replace("row 2", "row 3")
    assert [rows[0], rows[3]] == post(url + PREDICT, {"instances": inside}).json()["predictions"]


def test_unreachable_model_server_is_503_with_retry_after(starter: Starter) -> None:
    client = starter.client(f"127.0.0.1:{free_port()}", ready=False)
    started = time.monotonic()
    for path in (PREDICT, "/predict"):
        response = post(client.address + path, {"instances": [1]})
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert "cannot be reached" in response.json()["error"]
    assert requests.get(f"{client.address}/livez", timeout=5).ok
    assert requests.get(f"{client.address}/readyz", timeout=5).status_code == 503
    assert time.monotonic() - started < 5


def test_unresponsive_model_server_times_out(starter: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = starter.client(address, ready=False, CLIENT_TIMEOUT="0.5")
        started = time.monotonic()
        response = post(client.address + PREDICT, {"instances": [1]})
        assert response.status_code in (503, 504)
        assert time.monotonic() - started < 10


def test_stalled_request_does_not_block_others(client_url: str) -> None:
    address = urlsplit(client_url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as stalled:
        stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert post(client_url + PREDICT, {"instances": ROWS.tolist()}).status_code == 200
