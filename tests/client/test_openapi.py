"""The OpenAPI document: valid, generated from the models, and consistent with the responses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from client import ServingClient
from client.codecs.oip import codec as oip
from client.http.api_keys import hash_key, new_key
from client.http.gateway import Gateway
from client.http.messages import HttpRequest
from client.http.openapi import document
from client.serving.protos import SignatureDefMap
from client.serving.schema import Schema, TensorSpec, read_signatures
from client.settings import Settings
from tests.client import schemas
from tests.support import forked, identity, mixed
from tests.support.caller import model_config, models_config
from tests.support.tables import breast_cancer

NAMES = breast_cancer().columns
FLATS_PATH = "/v1/models/flats:predict"


@pytest.fixture(scope="module")
def server(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("openapi")
    mixed.publish(folder / "flats")
    identity.publish(folder / "identity")
    paths = (folder / "flats", folder / "identity", trained_models / "breast_cancer")
    with forked.model_server(folder, models_config(*map(model_config, paths))) as address:
        yield address


@pytest.fixture(scope="module")
def doc(server: str) -> Any:
    with ServingClient(server) as connection:
        models = [connection.schema(name) for name in ("breast_cancer", "flats", "identity")]
    raw = document(models, default_model="breast_cancer", title="Predictions", version="1.2")
    return json.loads(json.dumps(raw))


@pytest.fixture(scope="module")
def url(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = forked.start_client(tmp_path_factory.mktemp("client") / "log", server)
    yield running.address
    assert running.stop() == 0, running.output()


def check(doc: Any, path: str, response: requests.Response, method: str = "post") -> None:
    """Check that the document lists the response's status and schema."""
    entry = doc["paths"][path][method]["responses"][str(response.status_code)]
    if "$ref" in entry:
        entry = doc["components"]["responses"][entry["$ref"].rpartition("/")[2]]
    kind = response.headers["Content-Type"].partition(";")[0]
    schema = {**entry["content"][kind].get("schema", {}), "components": doc["components"]}
    is_json = kind in ("application/json", "application/problem+json")
    Draft202012Validator(schema).validate(response.json() if is_json else None)


def body_schema(doc: Any, path: str) -> Any:
    content = doc["paths"][path]["post"]["requestBody"]["content"]
    return {**content["application/json"]["schema"], "components": doc["components"]}


def test_document_is_valid(doc: Any) -> None:
    validate(doc)
    assert (doc["info"]["title"], doc["info"]["version"]) == ("Predictions", "1.2")


@pytest.mark.parametrize(
    "schema",
    [
        schemas.numeric(),
        schemas.mixed(),
        schemas.schema(x=TensorSpec(1, None), y=TensorSpec(9, (None, 2, None))),
        schemas.schema(x=TensorSpec(18, (None,)), y=TensorSpec(14, ())),
        Schema("a/{b} c", 1, {}, None, None),
    ],
    ids=range(5),
)
def test_document_is_valid_for_any_model(schema: Schema) -> None:
    for default in ("m", "nosuch"):
        for keys in (False, True):
            validate(document([schema], default_model=default, title="t", version="0", keys=keys))


def test_examples_of_dates_can_be_sent_to_v2() -> None:
    schema = schemas.with_description(schemas.numeric("day"), schemas.column("day", kind="date"))
    doc = document([schema], default_model="m", title="t", version="0")
    (example,) = body_schema(doc, "/v2/models/m/infer")["examples"]
    inputs = oip.read(json.dumps(example).encode(), schema).call.inputs
    assert inputs["features"].tolist() == [[0], [2]]


def test_document_without_models_is_valid() -> None:
    validate(document([], default_model="m", title="t", version="0"))


def test_columns_have_their_ranges_and_categories_from_training(doc: Any) -> None:
    row = body_schema(doc, "/predict")["anyOf"][0]["properties"]["instances"]["items"]["anyOf"][0]
    assert list(row["properties"]) == list(NAMES)
    assert row["required"] == list(NAMES)
    radius = row["properties"]["mean_radius"]
    assert radius["description"].startswith("in training from 6.981 to 2")
    assert radius["type"] == ["number", "null"]
    assert radius["exclusiveMinimum"] == -radius["exclusiveMaximum"]
    # The first number that float32 rounds to infinity, and the last that it does not.
    with np.errstate(over="ignore"):
        assert np.isinf(np.float32(radius["exclusiveMaximum"]))
    assert np.isfinite(np.float32(np.nextafter(radius["exclusiveMaximum"], 0)))
    assert row["examples"][0]["mean_radius"] > row["examples"][1]["mean_radius"]
    item = body_schema(doc, FLATS_PATH)["anyOf"][0]["properties"]["instances"]["items"]
    flat = item["properties"]
    assert flat["city"]["examples"] == ["Bern", "Basel", " Zug"]
    assert flat["rooms"]["examples"] == [3, 2, 9007199254740993]
    assert flat["balcony"] == {
        "type": "boolean",
        "description": "in training one of 2 values; others count as unknown",
        "examples": [False, True],
    }
    assert flat["income"]["type"] == ["number", "null"]
    assert {"type": "null"} in flat["district"]["anyOf"]
    assert {"type": "integer"} in flat["district"]["anyOf"]
    assert {"type": "integer"} not in flat["city"]["anyOf"]
    assert item["required"] == ["Age (years)", "city", "rooms", "balcony"]


def test_document_allows_the_labels_of_every_model(server: str, tmp_path: Path) -> None:
    with forked.client(tmp_path / "out", server, CLIENT_LOG=str(tmp_path / "log")) as url:
        doc = requests.get(f"{url}/openapi.json", timeout=30).json()
        labels = [("breast_cancer", "benign"), ("flats", "stays"), ("identity", True)]
        for model, label in (*labels, ("identity", 1.0)):
            row = {"id": "a", "label": label}
            response = requests.post(f"{url}/feedback?model={model}", json=row, timeout=30)
            assert response.status_code == 202, response.text
            check(doc, "/feedback", response)
            Draft202012Validator(body_schema(doc, "/feedback")).validate(row)
    row_schema = body_schema(doc, "/feedback")["anyOf"][0]
    assert row_schema["properties"]["label"]["examples"] == ["malignant", "benign"]


def test_every_endpoint_is_described(doc: Any) -> None:
    base = "/v1/models/flats"
    assert [path for path in doc["paths"] if path.startswith((base, "/v2/models/flats"))] == [
        f"{base}:predict",
        f"{base}:explain",
        base,
        f"{base}/metadata",
        f"{base}/versions/{{version}}:predict",
        f"{base}/versions/{{version}}:explain",
        f"{base}/versions/{{version}}",
        f"{base}/versions/{{version}}/metadata",
        f"{base}/labels/{{label}}:predict",
        f"{base}/labels/{{label}}:explain",
        f"{base}/labels/{{label}}",
        f"{base}/labels/{{label}}/metadata",
        "/v2/models/flats",
        "/v2/models/flats/ready",
        "/v2/models/flats/infer",
        "/v2/models/flats/versions/{version}",
        "/v2/models/flats/versions/{version}/ready",
        "/v2/models/flats/versions/{version}/infer",
    ]
    assert {
        "/predict",
        "/explain",
        "/livez",
        "/readyz",
        "/metrics",
        "/stats",
        "/v2",
        "/v2/health/live",
    } <= set(doc["paths"])
    assert "/v1/models/identity:explain" not in doc["paths"]
    assert "security" not in doc
    content = doc["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {
        "application/json",
        "text/csv",
        "text/tab-separated-values",
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
        "application/x-npy",
    }


def test_classify_and_regress_are_described_if_the_model_has_signatures_for_them() -> None:
    definition = SignatureDefMap()
    definition.signature_def["c"].method_name = "tensorflow/serving/classify"
    doc = document(
        [Schema("m", 1, read_signatures(definition), None, definition)],
        default_model="m",
        title="t",
        version="0",
    )
    validate(doc)
    assert "/v1/models/m:classify" in doc["paths"]
    assert "/v1/models/m:regress" not in doc["paths"]
    assert "/v1/models/m:predict" not in doc["paths"]


@pytest.mark.parametrize("path", ["/predict", FLATS_PATH, "/v1/models/breast_cancer:predict"])
def test_responses_to_examples_match_the_document(doc: Any, url: str, path: str) -> None:
    schema = body_schema(doc, path)
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)
        response = requests.post(url + path, json=example, timeout=30)
        assert response.status_code == 200, response.text
        check(doc, path, response)


@pytest.mark.parametrize("path", ["/explain", "/v1/models/flats:explain"])
def test_explanations_match_the_document(doc: Any, url: str, path: str) -> None:
    schema = body_schema(doc, path)
    (example,) = schema["examples"]
    rows = example["instances"]
    columns = {"inputs": {name: [row[name] for row in rows] for name in rows[0]}}
    order = list(schema["anyOf"][0]["properties"]["instances"]["items"]["anyOf"][0]["properties"])
    lists = {"instances": [[row[name] for name in order] for row in rows]}
    for request in (example, columns, lists):
        Draft202012Validator(schema).validate(request)
        response = requests.post(url + path, json=request, timeout=30)
        assert response.status_code == 200, response.text
        check(doc, path, response)
    with_signature = {**example, "signature_name": "explain"}
    assert not Draft202012Validator(schema).is_valid(with_signature)
    assert requests.post(url + path, json=with_signature, timeout=30).status_code == 400
    content = doc["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
    # The signature's raw outputs, without column names, do not match.
    raw = {"predictions": [{"bias": 1.0, "contribution": [1.0]}]}
    assert not Draft202012Validator(content["schema"]).is_valid(raw)


def test_document_describes_api_keys_where_they_are_required(server: str, tmp_path: Path) -> None:
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(f"shop {hash_key(key)}\n")
    with forked.client(tmp_path / "log", server, CLIENT_API_KEYS=str(keys)) as url:
        doc = requests.get(f"{url}/openapi.json", headers={"X-API-Key": key}, timeout=30).json()
        validate(doc)
        schemes = doc["components"]["securitySchemes"]
        assert doc["security"] == [{name: []} for name in schemes]
        for name, headers in {
            "bearer": {"Authorization": f"Bearer {key}"},
            "header": {schemes["header"]["name"]: key},
        }.items():
            assert name in schemes
            response = requests.get(f"{url}/v1/models/breast_cancer", headers=headers, timeout=30)
            assert response.status_code == 200
        for path, item in doc["paths"].items():
            for method, operation in item.items():
                if method == "parameters":
                    continue
                address = url + path.format(version=1, label="x")
                response = requests.request(method, address, timeout=30)
                is_open = operation.get("security") == []
                assert (response.status_code != 401) == is_open, path
                if not is_open:
                    check(doc, path, response, method)


def test_errors_for_invalid_requests_match_the_document(doc: Any, url: str) -> None:
    schema, path = body_schema(doc, "/predict"), "/predict"
    valid_row = schema["examples"][0]["instances"][0]
    for invalid_row in (
        {**valid_row, "mean_radius": "x"},
        {**valid_row, "mean_radius": 1e39},
        {**valid_row, "extra": 1},
        list(valid_row.values())[:-1],
    ):
        request = {"instances": [invalid_row]}
        assert not Draft202012Validator(schema).is_valid(request)
        response = requests.post(url + path, json=request, timeout=30)
        assert response.status_code == 400
        check(doc, path, response)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/stats", "/v1/models/flats"])
def test_responses_to_get_match_the_document(doc: Any, url: str, path: str) -> None:
    response = requests.get(url + path, timeout=30)
    assert response.status_code == 200
    check(doc, path, response, "get")


def test_responses_of_the_open_inference_protocol_match_the_document(doc: Any, url: str) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/flats"):
        check(doc, path, requests.get(url + path, timeout=30), "get")
    path = "/v2/models/flats/infer"
    schema = body_schema(doc, path)
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)
        response = requests.post(url + path, json=example, timeout=30)
        assert response.status_code == 200, response.text
        check(doc, path, response)
    check(doc, path, requests.post(url + path, json={"inputs": []}, timeout=30))


def test_client_serves_the_document_and_swagger_ui(doc: Any, url: str) -> None:
    for model in ("flats", "identity"):
        requests.get(f"{url}/v1/models/{model}/metadata", timeout=30)
    served = requests.get(f"{url}/openapi.json", timeout=30).json()
    validate(served)
    assert served["paths"].keys() == doc["paths"].keys()
    page = requests.get(f"{url}/docs/", timeout=30)
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert {tag["name"] for tag in served["tags"]} == {
        tag
        for item in served["paths"].values()
        for verb in ("get", "post")
        if verb in item
        for tag in item[verb]["tags"]
    }
    assert requests.get(f"{url}/docs/swagger-ui-bundle.js", timeout=30).status_code == 200


def test_documented_paths_match_the_routes_of_the_gateway(doc: Any) -> None:
    values = {"version": "1", "label": "x"}

    async def check_routes() -> None:
        async with Gateway(Settings()) as gateway:
            for path, item in doc["paths"].items():
                for method in {"get", "post"} & set(item):
                    route = gateway.route(HttpRequest(method.upper(), path.format(**values)))
                    assert route is not None, path
                    model = re.match(r"/v./models/([^/:]+)", path)
                    name = path.replace(model[1], "<model>", 1) if model else path
                    assert route.name == name.replace("{", "<").replace("}", ">")
                    assert route.methods is None or method.upper() in route.methods

    asyncio.run(check_routes())
