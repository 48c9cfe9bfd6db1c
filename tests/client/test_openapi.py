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
        served = [connection.schema(name) for name in ("breast_cancer", "flats", "identity")]
    made = document(served, default_model="breast_cancer", title="Predictions", version="1.2")
    return json.loads(json.dumps(made))


@pytest.fixture(scope="module")
def url(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = forked.start_client(tmp_path_factory.mktemp("client") / "log", server)
    yield running.address
    assert running.stop() == 0, running.output()


def check(doc: Any, path: str, reply: requests.Response, method: str = "post") -> None:
    """Check that the document lists the response's status and schema."""
    response = doc["paths"][path][method]["responses"][str(reply.status_code)]
    if "$ref" in response:
        response = doc["components"]["responses"][response["$ref"].rpartition("/")[2]]
    kind = reply.headers["Content-Type"].partition(";")[0]
    schema = {**response["content"][kind].get("schema", {}), "components": doc["components"]}
    is_json = kind in ("application/json", "application/problem+json")
    Draft202012Validator(schema).validate(reply.json() if is_json else None)


def body(doc: Any, path: str) -> Any:
    content = doc["paths"][path]["post"]["requestBody"]["content"]
    return {**content["application/json"]["schema"], "components": doc["components"]}


def test_it_is_valid(doc: Any) -> None:
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
def test_it_is_valid_for_any_model(schema: Schema) -> None:
    for default in ("m", "nosuch"):
        for keys in (False, True):
            validate(document([schema], default_model=default, title="t", version="0", keys=keys))


def test_examples_of_dates_can_be_sent_to_v2() -> None:
    schema = schemas.describing(schemas.numeric("day"), schemas.column("day", kind="date"))
    doc = document([schema], default_model="m", title="t", version="0")
    (example,) = body(doc, "/v2/models/m/infer")["examples"]
    inputs = oip.read(json.dumps(example).encode(), schema).call.inputs
    assert inputs["features"].tolist() == [[0], [2]]


def test_a_document_without_models_is_valid() -> None:
    validate(document([], default_model="m", title="t", version="0"))


def test_columns_have_their_ranges_and_categories_from_training(doc: Any) -> None:
    row = body(doc, "/predict")["anyOf"][0]["properties"]["instances"]["items"]["anyOf"][0]
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
    flat = body(doc, FLATS_PATH)["anyOf"][0]["properties"]["instances"]["items"]["properties"]
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
    required = body(doc, FLATS_PATH)["anyOf"][0]["properties"]["instances"]["items"]["required"]
    assert required == ["Age (years)", "city", "rooms", "balcony"]


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
    made = document(
        [Schema("m", 1, read_signatures(definition), None, definition)],
        default_model="m",
        title="t",
        version="0",
    )
    validate(made)
    assert "/v1/models/m:classify" in made["paths"]
    assert "/v1/models/m:regress" not in made["paths"]
    assert "/v1/models/m:predict" not in made["paths"]


@pytest.mark.parametrize("path", ["/predict", FLATS_PATH, "/v1/models/breast_cancer:predict"])
def test_responses_to_examples_match_the_document(doc: Any, url: str, path: str) -> None:
    schema = body(doc, path)
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)
        reply = requests.post(url + path, json=example, timeout=30)
        assert reply.status_code == 200, reply.text
        check(doc, path, reply)


@pytest.mark.parametrize("path", ["/explain", "/v1/models/flats:explain"])
def test_explanations_match_the_document(doc: Any, url: str, path: str) -> None:
    schema = body(doc, path)
    (example,) = schema["examples"]
    rows = example["instances"]
    columns = {"inputs": {name: [row[name] for row in rows] for name in rows[0]}}
    order = list(schema["anyOf"][0]["properties"]["instances"]["items"]["anyOf"][0]["properties"])
    lists = {"instances": [[row[name] for name in order] for row in rows]}
    for asked in (example, columns, lists):
        Draft202012Validator(schema).validate(asked)
        reply = requests.post(url + path, json=asked, timeout=30)
        assert reply.status_code == 200, reply.text
        check(doc, path, reply)
    named = {**example, "signature_name": "explain"}
    assert not Draft202012Validator(schema).is_valid(named)
    assert requests.post(url + path, json=named, timeout=30).status_code == 400
    content = doc["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
    # A reply of the signature's raw outputs, without the columns' names, does not match.
    raw = {"predictions": [{"bias": 1.0, "contribution": [1.0]}]}
    assert not Draft202012Validator(content["schema"]).is_valid(raw)


def test_the_document_describes_api_keys_where_they_are_required(
    server: str, tmp_path: Path
) -> None:
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(f"shop {hash_key(key)}\n")
    with forked.client(tmp_path / "log", server, CLIENT_API_KEYS=str(keys)) as url:
        shown = requests.get(f"{url}/openapi.json", headers={"X-API-Key": key}, timeout=30).json()
        validate(shown)
        schemes = shown["components"]["securitySchemes"]
        assert shown["security"] == [{name: []} for name in schemes]
        for name, brought in {
            "bearer": {"Authorization": f"Bearer {key}"},
            "header": {schemes["header"]["name"]: key},
        }.items():
            assert name in schemes
            asked = requests.get(f"{url}/v1/models/breast_cancer", headers=brought, timeout=30)
            assert asked.status_code == 200
        for path, item in shown["paths"].items():
            for method, operation in item.items():
                if method == "parameters":
                    continue
                where = url + path.format(version=1, label="x")
                reply = requests.request(method, where, timeout=30)
                is_open = operation.get("security") == []
                assert (reply.status_code != 401) == is_open, path
                if not is_open:
                    check(shown, path, reply, method)


def test_refusals_of_invalid_requests_match_the_document(doc: Any, url: str) -> None:
    schema, path = body(doc, "/predict"), "/predict"
    good = schema["examples"][0]["instances"][0]
    for wrong in (
        {**good, "mean_radius": "x"},
        {**good, "mean_radius": 1e39},
        {**good, "extra": 1},
        list(good.values())[:-1],
    ):
        request = {"instances": [wrong]}
        assert not Draft202012Validator(schema).is_valid(request)
        reply = requests.post(url + path, json=request, timeout=30)
        assert reply.status_code == 400
        check(doc, path, reply)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/stats", "/v1/models/flats"])
def test_responses_to_get_match_the_document(doc: Any, url: str, path: str) -> None:
    reply = requests.get(url + path, timeout=30)
    assert reply.status_code == 200
    check(doc, path, reply, "get")


def test_responses_of_the_open_inference_protocol_match_the_document(doc: Any, url: str) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/flats"):
        check(doc, path, requests.get(url + path, timeout=30), "get")
    path = "/v2/models/flats/infer"
    schema = body(doc, path)
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)
        reply = requests.post(url + path, json=example, timeout=30)
        assert reply.status_code == 200, reply.text
        check(doc, path, reply)
    check(doc, path, requests.post(url + path, json={"inputs": []}, timeout=30))


def test_the_client_shows_the_document_and_a_page_of_it(doc: Any, url: str) -> None:
    for model in ("flats", "identity"):
        requests.get(f"{url}/v1/models/{model}/metadata", timeout=30)
    shown = requests.get(f"{url}/openapi.json", timeout=30).json()
    validate(shown)
    assert shown["paths"].keys() == doc["paths"].keys()
    page = requests.get(f"{url}/docs/", timeout=30)
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert {tag["name"] for tag in shown["tags"]} == {
        tag
        for item in shown["paths"].values()
        for verb in ("get", "post")
        if verb in item
        for tag in item[verb]["tags"]
    }
    assert requests.get(f"{url}/docs/swagger-ui-bundle.js", timeout=30).status_code == 200


def test_every_path_has_the_route_of_its_name(doc: Any) -> None:
    values = {"version": "1", "label": "x"}

    async def check_routes() -> None:
        async with Gateway(Settings()) as gateway:
            for path, item in doc["paths"].items():
                for method in {"get", "post"} & set(item):
                    route = gateway.route(HttpRequest(method.upper(), path.format(**values)))
                    assert route is not None, path
                    model = re.match(r"/v./models/([^/:]+)", path)
                    named = path.replace(model[1], "<model>", 1) if model else path
                    assert route.name == named.replace("{", "<").replace("}", ">")
                    assert route.methods is None or method.upper() in route.methods

    asyncio.run(check_routes())
