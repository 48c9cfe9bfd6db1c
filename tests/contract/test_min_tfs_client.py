"""A third-party client for TensorFlow Serving works unchanged.

The `min-tfs-client` package needs an old protobuf, and its TensorFlow messages would overwrite
those of an installed TensorFlow, so it gets its own environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_or_fail
from tests.support.tables import breast_cancer

PACKAGES = ("min-tfs-client==1.0.2", "protobuf==3.20.3")
UV = Path(sys.executable).with_name("uv")
PROGRAM = """
import json, sys
import grpc, numpy
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

host, port, columns = sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)
client = TensorServingClient(host, port)
inputs = {name: numpy.array(values, numpy.float32) for name, values in columns.items()}
response = client.predict_request("breast_cancer", inputs, model_version=1)
outputs = {name: tensor_proto_to_ndarray(proto) for name, proto in response.outputs.items()}
try:
    client.predict_request("nosuch", inputs)
except grpc.RpcError as error:
    error_status = [error.code().name, error.details()]
# The client has no method for the status, but ships the stubs.
request = get_model_status_pb2.GetModelStatusRequest()
request.model_spec.name = "breast_cancer"
with grpc.insecure_channel(f"{host}:{port}") as channel:
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, 10)
print(json.dumps({
    "states": {v.version: v.State.Name(v.state) for v in status.model_version_status},
    "version": response.model_spec.version.value,
    "probability": outputs["probability"].tolist(),
    "label": [str(label) for label in outputs["label"].tolist()],
    "error_status": error_status,
}))
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python interpreter with `min-tfs-client` installed."""
    environment = tmp_path_factory.mktemp("min-tfs-client") / "venv"
    if not UV.exists():
        skip_or_fail("uv is not installed, so there is no environment for min-tfs-client")
    python = environment / "bin" / "python"
    commands: tuple[list[str | Path], ...] = (
        [UV, "venv", "--quiet", f"--python={sys.executable}", environment],
        [UV, "pip", "install", "--quiet", f"--python={python}", *PACKAGES],
    )
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            skip_or_fail(f"min-tfs-client cannot be installed: {result.stderr.strip()[:200]}")
    return python


def test_client_predicts_and_reads_errors(python: Path, model_server: str) -> None:
    table = breast_cancer()
    columns = {name: table.features[:3, i].tolist() for i, name in enumerate(table.columns)}
    host, _, port = model_server.rpartition(":")
    result = subprocess.run(
        [python, "-c", PROGRAM, host, port],
        input=json.dumps(columns), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    output: dict[str, Any] = json.loads(result.stdout)
    assert output["version"] == 1
    assert output["states"] == {"1": "AVAILABLE"}
    assert len(output["label"]) == len(output["probability"]) == 3
    assert all("malignant" in label for label in output["label"])
    assert all(
        0 < probability < 0.5 for probability in output["probability"]
    )  # probability of "benign"
    assert output["error_status"] == ["NOT_FOUND", "Servable not found for request: Latest(nosuch)"]
