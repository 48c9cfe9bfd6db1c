"""The Open Inference Protocol, tested with Triton's client and a real model server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from client import ClientError, ServingClient, __version__
from client.codecs.oip import codec as oip
from client.codecs.oip.models import ready
from client.codecs.oip.tensors import read_binary
from client.http import paths
from client.serving.client import Target
from client.serving.protos import TensorProto
from client.serving.schema import TensorSpec
from client.serving.tensors import BFLOAT16, from_bfloat16, from_proto, to_bfloat16, to_proto
from tests.client import schemas
from tests.support import affine, forked, identity, mixed
from tests.support.caller import model_config, models_config
from tests.support.tables import breast_cancer

TABLE = breast_cancer()
ROWS = TABLE.features[:5].astype(np.float32)
FLATS: dict[str, Any] = {
    "Age (years)": np.array([40, 1.5], np.float32),
    "income": np.array([350, np.nan], np.float32),
    "city": np.array([b"Basel", b" Zug"], object),
    "district": np.array([b"42", b""], object),
    "garden": np.array([b"true", b"false"], object),
    "rooms": np.array([2, 9007199254740993], np.int64),
    "balcony": np.array([True, False]),
}


@pytest.fixture(scope="module")
def server(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a model server with several models, one with two versions."""
    folder = tmp_path_factory.mktemp("oip")
    affine.publish(folder / "affine", 1)
    affine.publish(folder / "affine", 2)
    identity.publish(folder / "identity")
    mixed.publish(folder / "flats")
    all_versions = "model_version_policy { all {} }"
    config = models_config(
        model_config(
            folder / "affine", f'{all_versions} version_labels {{ key: "stable" value: 1 }}'
        ),
        *(model_config(folder / name, all_versions) for name in ("identity", "flats")),
        model_config(trained_models / "breast_cancer", all_versions),
    )
    flag = "--allow_version_labels_for_unavailable_models"
    with forked.model_server(folder, config, flag) as address:
        yield address


@pytest.fixture(scope="module")
def url(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("client") / "log"
    with forked.client(log, server, CLIENT_MODEL="affine") as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4) as client:
        yield client


def f32(values: Any) -> Any:
    return np.array(values, np.float32)


def tensor(name: str, values: Any, *, binary: bool = True, datatype: str = "") -> Any:
    array = np.asarray(values)
    names = {"f2": "FP16", "f4": "FP32", "f8": "FP64", "b1": "BOOL", "i8": "INT64", "O": "BYTES"}
    kind = datatype or names[array.dtype.str.lstrip("<|")]
    infer_input = triton.InferInput(name, list(array.shape), kind)
    infer_input.set_data_from_numpy(array, binary_data=binary)
    return infer_input


def requested_output(name: str, *, binary: bool = True) -> Any:
    return triton.InferRequestedOutput(name, binary_data=binary)


def test_liveness_and_readiness_of_server_and_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("affine", "1")
    assert client.is_model_ready("affine", "stable")
    assert not client.is_model_ready("affine", "3")
    assert not client.is_model_ready("nosuch")


def test_health_responses(url: str) -> None:
    assert requests.get(f"{url}/v2/health/live", timeout=5).json() == {"live": True}
    assert requests.get(f"{url}/v2/health/ready", timeout=5).json() == {"ready": True}
    response = requests.get(f"{url}/v2/models/affine/ready", timeout=5)
    assert response.json() == {"name": "affine", "ready": True}


def test_server_without_its_model_is_live_but_not_ready(
    server: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("client") / "log"
    with forked.client(log, server, ready=False, CLIENT_MODEL="nosuch") as address:
        client = triton.InferenceServerClient(address.removeprefix("http://"))
        assert client.is_server_live()
        assert not client.is_server_ready()
        client.close()
    assert ready(False).status == 503


def test_server_metadata(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata() == {
        "name": "logreg-serving",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }


def test_model_metadata(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("identity")
    assert metadata == {
        "name": "identity",
        "versions": ["1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [
            {"name": "number", "datatype": "FP32", "shape": [-1]},
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "pair", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "twice", "datatype": "FP32", "shape": [-1]},
        ],
    }
    assert client.get_model_metadata("affine")["versions"] == ["2", "1"]
    assert client.get_model_metadata("affine", "stable")["versions"] == ["1"]
    dense = client.get_model_metadata("breast_cancer", query_params={"signature_name": "dense"})
    assert dense["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}]


@pytest.mark.parametrize("datatype", [name for name in identity.TYPES if name != "BF16"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_values_of_every_type_round_trip(
    client: triton.InferenceServerClient, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    dtype = np.dtype(object if datatype == "BYTES" else identity.TYPES[datatype].as_numpy_dtype)
    if dtype.kind == "O":
        values = np.array([["Zürich", ""], ["a\nb", '"c"']], object)
        expected: Any = [["Zürich".encode(), b""], [b"a\nb", b'"c"']]
    elif dtype.kind == "b":
        values = expected = np.array([[True, False]])
    elif dtype.kind == "f":
        values = expected = np.array([[0.1, -1.5, 3e4], [0, 1, 2]], dtype)
    else:
        limits = np.iinfo(dtype)
        values = expected = np.array([[limits.min, limits.max, 7]], dtype)
    result = client.infer(
        "identity",
        [tensor("x", values, binary=binary_in, datatype=datatype)],
        outputs=[requested_output("y", binary=binary_out)],
        parameters={"signature_name": datatype},
    )
    answer = result.as_numpy("y")
    assert result.get_output("y")["datatype"] == datatype
    assert ("data" in result.get_output("y")) == (not binary_out)
    if dtype.kind == "O" and not binary_out:
        expected = [[value.decode() for value in row] for row in expected]
    assert answer.dtype == dtype
    assert answer.shape == values.shape
    np.testing.assert_array_equal(answer, expected)


def test_non_utf8_strings_round_trip_as_bytes_and_base64(
    url: str, client: triton.InferenceServerClient
) -> None:
    values = np.array([[b"\xff\x00", b"a"]], object)
    inputs = [tensor("x", values)]
    parameters = {"signature_name": "BYTES"}
    result = client.infer("identity", inputs, parameters=parameters)
    assert result.as_numpy("y").tolist() == values.tolist()
    output = client.infer(
        "identity", inputs, outputs=[requested_output("y", binary=False)], parameters=parameters
    ).get_output("y")
    assert output["parameters"] == {"content_type": "base64"}
    assert output["data"] == ["/wA=", "YQ=="]
    body = {"inputs": [{**output, "name": "x"}], "parameters": parameters}
    response = requests.post(f"{url}/v2/models/identity/infer", json=body, timeout=10)
    assert response.json()["outputs"] == [output]


@pytest.mark.parametrize("binary", [True, False])
def test_nan_round_trips(client: triton.InferenceServerClient, binary: bool) -> None:
    result = client.infer(
        "identity",
        [tensor("x", np.array([[np.nan, 1]], np.float32), binary=binary)],
        outputs=[requested_output("y", binary=binary)],
        parameters={"signature_name": "FP32"},
    )
    np.testing.assert_array_equal(result.as_numpy("y"), [[np.nan, 1]])


def test_all_or_only_the_requested_outputs_are_returned(
    client: triton.InferenceServerClient,
) -> None:
    inputs = [tensor("text", np.array(["a"], object)), tensor("number", f32([2]))]
    complete = client.infer("identity", inputs, request_id="first")
    assert [o["name"] for o in complete.get_response()["outputs"]] == ["pair", "text", "twice"]
    assert complete.get_response()["id"] == "first"
    np.testing.assert_array_equal(complete.as_numpy("pair"), [[2, -2]])
    filtered = client.infer(
        "identity",
        inputs,
        outputs=[requested_output("twice"), requested_output("text", binary=False)],
    )
    assert [o["name"] for o in filtered.get_response()["outputs"]] == ["twice", "text"]
    assert filtered.as_numpy("twice") == [4]
    assert filtered.as_numpy("text") == ["a"]
    assert "id" not in filtered.get_response()


def test_version_or_label_selects_the_model_version(client: triton.InferenceServerClient) -> None:
    inputs = [tensor("x", f32([1]))]
    for version, answer in (("", 12), ("1", 11), ("2", 12), ("stable", 11)):
        result = client.infer("affine", inputs, version)
        assert result.as_numpy("y") == [answer]
        assert result.get_response()["model_version"] == str(answer - 10)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_are_decoded(
    client: triton.InferenceServerClient, compression: str
) -> None:
    inputs = [tensor("x", f32([1]))]
    result = client.infer("affine", inputs, request_compression_algorithm=compression)
    assert result.as_numpy("y") == [12]


def test_concurrent_requests_get_their_own_outputs(client: triton.InferenceServerClient) -> None:
    pending = [
        client.async_infer("affine", [tensor("x", f32([number, -number]))]) for number in range(20)
    ]
    for number, request in enumerate(pending):
        answer = request.get_result().as_numpy("y")
        np.testing.assert_array_equal(answer, [10 * number + 2, -10 * number + 2])


def test_matrix_and_column_tensors_give_the_same_outputs(
    client: triton.InferenceServerClient, server: str
) -> None:
    with ServingClient(server) as connection:
        expected = connection.predict(
            "breast_cancer", {"features": ROWS}, signature_name="dense"
        ).outputs
    matrix = client.infer(
        "breast_cancer", [tensor("features", ROWS)], parameters={"signature_name": "dense"}
    )
    columns = client.infer(
        "breast_cancer",
        [tensor(name, ROWS[:, i], binary=bool(i % 2)) for i, name in enumerate(TABLE.columns)],
    )
    for result in (matrix, columns):
        np.testing.assert_allclose(result.as_numpy("logit"), expected["logit"], rtol=1e-5)
        labels = [label.decode() for label in result.as_numpy("label")]
        assert labels == expected["label"].tolist()


def test_columns_of_every_kind_are_accepted(client: triton.InferenceServerClient) -> None:
    answers = [
        client.infer("flats", [tensor(n, v, binary=b) for n, v in FLATS.items()]).as_numpy("logit")
        for b in (True, False)
    ]
    np.testing.assert_allclose(answers[0], [5.9, -2.985], rtol=1e-5)
    np.testing.assert_array_equal(*answers)


ONE = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
GRID = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
GRID_PARAMETERS = {"parameters": {"signature_name": "grid"}}


@pytest.mark.parametrize("data", [[1, 2, 3, 4.0, 5, 6], [[[1, 2, 3], [4, 5, 6]]]])
def test_data_may_be_flat_or_nested(url: str, data: Any) -> None:
    body = {"inputs": [{**GRID, "data": data}], **GRID_PARAMETERS}
    response = requests.post(f"{url}/v2/models/identity/infer", json=body, timeout=10)
    assert response.json() == {
        "model_name": "identity",
        "model_version": "1",
        "outputs": [{"name": "total", "datatype": "FP32", "shape": [1], "data": [21.0]}],
    }


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("x", np.array([1.0]))], 'input "x": expected FP32 [-1], got FP64 [1]'),
        ([("x", f32([[1]]))], 'input "x": expected FP32 [-1], got FP32 [1, 1]'),
        ([("y", f32([1]))], 'inputs[0]: unknown name "y"; expected x'),
        ([("x", f32([1])), ("x", f32([1]))], 'inputs[1]: duplicate name "x"'),
        ([], "inputs: missing x; expected x"),
    ],
)
def test_tritonclient_receives_the_errors(
    client: triton.InferenceServerClient, inputs: list[tuple[str, Any]], message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("affine", [tensor(name, values) for name, values in inputs])
    assert caught.value.status() == "400"
    assert caught.value.message() == message


def test_unknown_names_and_unsupported_features_are_rejected(
    client: triton.InferenceServerClient,
) -> None:
    inputs = [tensor("x", f32([1]))]
    with pytest.raises(InferenceServerException, match="nosuch"):
        client.infer("nosuch", inputs)
    with pytest.raises(InferenceServerException, match="affine"):
        client.infer("affine", inputs, "7")
    with pytest.raises(InferenceServerException, match=r'outputs\[0\]: unknown name "z"'):
        client.infer("affine", inputs, outputs=[requested_output("z")])
    with pytest.raises(InferenceServerException, match="sequence_id: sequences are not supported"):
        client.infer("affine", inputs, sequence_id=3)
    with pytest.raises(InferenceServerException, match="classification is not supported"):
        client.infer("affine", inputs, outputs=[triton.InferRequestedOutput("y", class_count=2)])
    with pytest.raises(InferenceServerException, match="it has serving_default"):
        client.infer("affine", inputs, parameters={"signature_name": "z"})
    pending = client.async_infer("affine", [])
    with pytest.raises(InferenceServerException, match="inputs: missing x; expected x"):
        pending.get_result()
    shared = triton.InferInput("x", [1], "FP32")
    shared.set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer("affine", [shared])


NESTED: Any = 1.0
for _ in range(60):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the JSON is empty; expected"),
        (b"{", "the body is not JSON: "),
        (b'{"inputs": NaN', "the body is not JSON: "),
        (b"[" * 100_000, "the body is not JSON: "),
        (b"NaN" + b"[" * 100_000, "the body is not JSON: "),
        ([], "the body is a list of 0; expected"),
        ({}, "inputs: expected a list of tensors, got null"),
        ({"inputs": {}}, "inputs: expected a list of tensors, got an object"),
        ({"inputs": [1]}, "inputs[0]: expected an object, got 1"),
        ({"inputs": [{}]}, "inputs[0]: name: expected a string, got null"),
        ({"inputs": [ONE], "id": 3}, "id: expected a string, got 3"),
        ({"inputs": [ONE], "parameters": 3}, "parameters: expected an object, got 3"),
        (
            {"inputs": [ONE], "parameters": {"signature_name": 3}},
            "signature_name: expected a string, got 3",
        ),
        (
            {"inputs": [ONE], "parameters": {"binary_data_output": 3}},
            "parameters: binary_data_output: expected true or false, got 3",
        ),
        ({"inputs": [ONE], "outputs": 3}, "outputs: expected a list of tensors, got 3"),
        ({"inputs": [ONE], "outputs": [{"name": "y"}] * 2}, 'outputs[1]: duplicate name "y"'),
        ({"inputs": [{**ONE, "shape": None}]}, 'input "x": expected a shape such as [1, 2]'),
        ({"inputs": [{**ONE, "shape": [-1]}]}, 'input "x": expected a shape such as [1, 2]'),
        ({"inputs": [{**ONE, "shape": [True]}]}, 'input "x": expected a shape such as [1, 2]'),
        (
            {"inputs": [{**ONE, "shape": [2**60]}]},
            'input "x": expected 1152921504606846976 values for shape [1152921504606846976], got 1',
        ),
        ({"inputs": [{**ONE, "datatype": None}]}, 'input "x": expected FP32 [-1], got null'),
        ({"inputs": [{**ONE, "data": 1}]}, 'input "x": expected a list as data, got 1'),
        ({"inputs": [{**ONE, "data": ["1"]}]}, 'input "x" data[0]: expected a number, got the'),
        ({"inputs": [{**ONE, "data": [True]}]}, 'input "x" data[0]: expected a number, got true'),
        ({"inputs": [{**ONE, "data": [1e39]}]}, 'input "x" data[0]: expected at most ±3.4'),
        (
            {"inputs": [{**ONE, "shape": [2], "data": [float("inf"), 1e39]}]},
            'input "x" data[1]: expected at most ±3.4',
        ),
        ({"inputs": [{**ONE, "data": [None]}]}, 'input "x" data[0]: expected a number, got null'),
        ({"inputs": [{**ONE, "data": NESTED}]}, 'input "x" data[0]: expected a number, got a list'),
    ],
)
def test_unreadable_requests_are_rejected(url: str, body: Any, message: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body)
    response = requests.post(f"{url}/v2/models/affine/infer", data=data, timeout=10)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [{**GRID, "data": [[1, 2, 3]]}], **GRID_PARAMETERS}, "nested lists of shape"),
        (
            {"inputs": [{**GRID, "data": [[[1], [2, 3, 4, 5, 6]]]}], **GRID_PARAMETERS},
            "nested lists of shape [1, 2, 3]",
        ),
        (
            {
                "inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT8", "data": [300]}],
                "parameters": {"signature_name": "INT8"},
            },
            'input "x" data[0]: expected an integer from -128 to 127, got 300',
        ),
        (
            {
                "inputs": [
                    {
                        "name": "x",
                        "shape": [1, 1],
                        "datatype": "BYTES",
                        "parameters": {"content_type": "base64"},
                        "data": ["é"],
                    }
                ],
                "parameters": {"signature_name": "BYTES"},
            },
            'input "x" data[0]: expected base64, got the string "é"',
        ),
    ],
)
def test_data_that_does_not_match_shape_or_type_is_rejected(
    url: str, body: Any, message: str
) -> None:
    response = requests.post(f"{url}/v2/models/identity/infer", json=body, timeout=10)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("header_length", "size", "binary", "message"),
    [
        ("x", 4, b"1234", "Inference-Header-Content-Length: expected at most "),
        ("9" * 30, 4, b"1234", "Inference-Header-Content-Length: expected at most "),
        ("-1", 4, b"1234", "Inference-Header-Content-Length: expected at most "),
        ("0", 4, b"1234", "the JSON is empty; expected"),
        (None, 4, b"", 'input "x": binary_data_size: expected an integer from 0 to 0, the'),
        ("", 5, b"1234", 'input "x": binary_data_size: expected an integer from 0 to 4, the'),
        (
            "",
            -1,
            b"1234",
            'input "x": binary_data_size: expected an integer from 0 to 4, the',
        ),
        ("", 3, b"123", 'input "x": expected 4 bytes for shape [1], got 3'),
        ("", 4, b"12345", "expected no bytes after those of the last input, got 1"),
    ],
)
def test_wrong_binary_sizes_are_rejected(
    url: str, header_length: str | None, size: int, binary: bytes, message: str
) -> None:
    tensor = {**ONE, "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()
    length = str(len(header)) if header_length == "" else header_length
    headers = {} if length is None else {oip.HEADER_LENGTH: length}
    response = requests.post(
        f"{url}/v2/models/affine/infer", data=header + binary, headers=headers, timeout=10
    )
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"\x05\0\0\0abc", 1),
        (b"\x03\0\0\0abc", 2),
        (b"\x03\0\0\0abcd", 1),
        (b"\x03\0\0", 1),
        (b"", 2**60),
        (b"\xff\xff\xff\xff", 1),
    ],
)
def test_strings_with_wrong_lengths_are_rejected(data: bytes, count: int) -> None:
    with pytest.raises(ClientError, match=f"t: expected {count} strings, each after its length"):
        read_binary(memoryview(data), (count,), TensorSpec(7, (None,)), "t")


def test_bool_bytes_other_than_0_and_1_are_rejected() -> None:
    with pytest.raises(ClientError, match="t: expected a 0 or 1 in each byte of BOOL data"):
        read_binary(memoryview(b"\x00\x02"), (2,), TensorSpec(10, (None,)), "t")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_bfloat16_round_trips(
    url: str, client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    metadata = client.get_model_metadata("identity", query_params={"signature_name": "BF16"})
    assert metadata["outputs"][0]["datatype"] == "BF16"
    values, expected = [1.0, -2.5, 3.14159, 1e-30], [1.0, -2.5, 3.140625, 9.984021e-31]
    if binary_in:
        infer_input = triton.InferInput("x", [1, 4], "BF16")
        infer_input.set_data_from_numpy(np.array([expected], identity.TYPES["BF16"].as_numpy_dtype))
        result = client.infer(
            "identity",
            [infer_input],
            outputs=[requested_output("y", binary=binary_out)],
            parameters={"signature_name": "BF16"},
        )
        output, answer = result.get_output("y"), result.as_numpy("y") if binary_out else None
        answer = output["data"] if answer is None else answer.reshape(-1).tolist()
    else:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "BF16", "data": values}
        body = {
            "inputs": [tensor],
            "outputs": [{"name": "y", "parameters": {"binary_data": binary_out}}],
            "parameters": {"signature_name": "BF16"},
        }
        response = requests.post(f"{url}/v2/models/identity/infer", json=body, timeout=10)
        head = int(response.headers.get(oip.HEADER_LENGTH, len(response.content)))
        output, data = json.loads(response.content[:head])["outputs"][0], response.content[head:]
        bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        answer = bits.view(np.float32).tolist() if binary_out else output["data"]
    assert (output["datatype"], output["shape"]) == ("BF16", [1, 4])
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


BIG = {"INT64": 1234567890123456789, "UINT64": 18446744073709551615}


@pytest.mark.parametrize("number", [b"1.5", b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_large_integers_stay_exact_beside_any_number(number: bytes, bom: bytes) -> None:
    model = schemas.schema(
        x=schemas.spec("FLOAT", None), i=schemas.spec("INT64", None), u=schemas.spec("UINT64", None)
    )
    tensors = [
        {"name": name, "shape": [1], "datatype": datatype, "data": [value]}
        for name, datatype, value in (
            ("x", "FP32", "NUMBER"),
            ("i", "INT64", BIG["INT64"]),
            ("u", "UINT64", BIG["UINT64"]),
        )
    ]
    body = bom + json.dumps({"inputs": tensors}).encode().replace(b'"NUMBER"', number)
    inputs = oip.read(body, model).call.inputs
    np.testing.assert_array_equal(inputs["x"], [float(number)])
    assert inputs["i"].tolist() == [BIG["INT64"]]
    assert inputs["u"].tolist() == [BIG["UINT64"]]
    with_length = oip.read(body, model, str(len(body))).call.inputs
    assert with_length["u"].tolist() == [BIG["UINT64"]]


@pytest.mark.parametrize("number", ["nan", "1e999", "Infinity2", "--1"])
def test_invalid_numbers_are_rejected(number: str) -> None:
    model = schemas.schema(x=schemas.spec("FLOAT", None))
    text = '{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [NaN, %s]}]}'
    with pytest.raises(ClientError, match="the body is not JSON"):
        oip.read((text % number).encode(), model)


def test_bfloat16_is_rounded_to_the_nearest_value() -> None:
    values = f32([1.0, 1.00390625, 1.01171875, 3e38, np.inf, -np.inf, np.nan, -0.0])
    bits = to_bfloat16(values)
    expected = f32([1.0, 1.0, 1.015625, 3e38, np.inf, -np.inf, np.nan, -0.0])
    np.testing.assert_allclose(from_bfloat16(bits), expected, rtol=2**-8)
    assert bits[1] == bits[0]
    proto = to_proto(values, BFLOAT16)
    np.testing.assert_array_equal(from_proto(proto), from_bfloat16(bits))
    half_proto = TensorProto(
        dtype=BFLOAT16, half_val=bits.tolist(), tensor_shape={"dim": [{"size": 8}]}
    )
    np.testing.assert_array_equal(from_proto(half_proto), from_bfloat16(bits))


def test_binary_numbers_are_not_copied(server: str) -> None:
    with ServingClient(server) as connection:
        schema = connection.schema("breast_cancer")
    tensor = {"name": "features", "shape": [1, 30], "datatype": "FP32"}
    parameters = {"parameters": {"signature_name": "dense"}}
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": 120}}], **parameters}
    header = json.dumps(head).encode()
    body = header + ROWS[:1].tobytes()
    call = oip.read(body, schema, str(len(header))).call
    np.testing.assert_array_equal(call.inputs["features"], ROWS[:1])
    assert np.shares_memory(call.inputs["features"], np.frombuffer(body, np.uint8))


VERSION = "/v2/models/<model>/versions/<version>"


@pytest.mark.parametrize(
    ("path", "name", "target"),
    [
        ("/v2/models/a%20b", "/v2/models/<model>", Target("a b")),
        ("/v2/models/m/versions/7/ready", f"{VERSION}/ready", Target("m", 7)),
        ("/v2/models/m/versions/new/infer", f"{VERSION}/infer", Target("m", None, "new")),
    ],
)
def test_path_selects_the_route_and_the_target(path: str, name: str, target: Target) -> None:
    parsed = paths.parse_v2(path)
    assert parsed is not None
    assert (parsed.name, parsed.target()) == (name, target)


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models", "/v2/models/m/config", "/v2/models/m/infer/", "/v1/models/m"]
)
def test_other_paths_are_not_parsed(path: str) -> None:
    assert paths.parse_v2(path) is None


def test_version_beyond_int64_is_rejected() -> None:
    parsed = paths.parse_v2(f"/v2/models/m/versions/{2**63}/infer")
    assert parsed is not None
    with pytest.raises(ClientError, match="version: expected at most 9223372036854775807"):
        parsed.target()


def test_tensors_of_64_dimensions_go_both_ways(tmp_path: Path) -> None:
    module = tf.Module()
    double = tf.function(lambda x: {"y": 2 * x}, autograph=False)
    spec = tf.TensorSpec(None, tf.float32, "x")
    tf.saved_model.save(module, str(tmp_path / "any/1"), double.get_concrete_function(x=spec))

    def post(url: str, path: str, body: Any) -> tuple[int, Any]:
        reply = requests.post(url + path, json=body, timeout=10)
        return reply.status_code, reply.json()

    def nested(value: Any, depth: int) -> Any:
        return nested([value], depth - 1) if depth else value

    def infer_body(rank: int) -> Any:
        shape = [1] * rank
        return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1.5]}]}

    config = models_config(model_config(tmp_path / "any", "model_version_policy { all {} }"))
    with (
        forked.model_server(tmp_path, config) as server,
        forked.client(tmp_path / "log", server, CLIENT_MODEL="any") as url,
    ):
        for path in ("/predict", "/v1/models/any:predict"):
            status, body = post(url, path, {"inputs": nested(1.5, 64)})
            assert (status, body["outputs"]) == (200, nested(3.0, 64))
            assert post(url, path, {"inputs": nested(1.5, 65)})[0] == 400
            table = io.BytesIO()
            np.save(table, np.full((1,) * 64, 1.5, np.float32))
            headers = {"Content-Type": "application/x-npy"}
            reply = requests.post(url + path, table.getvalue(), headers=headers, timeout=10)
            assert np.load(io.BytesIO(reply.content)).tolist() == nested(3.0, 64)
        status, body = post(url, "/v2/models/any/infer", infer_body(64))
        assert (status, body["outputs"][0]["shape"]) == (200, [1] * 64)
        assert body["outputs"][0]["data"] == [3.0]
        status, body = post(url, "/v2/models/any/infer", infer_body(65))
        assert status == 400
        assert "expected at most 64 dimensions, got 65" in body["error"]
