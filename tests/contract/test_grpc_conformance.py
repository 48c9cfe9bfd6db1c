"""Each recorded gRPC call gets the response that TensorFlow Serving gave."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    regression_pb2,
)

from tests.contract import comparing, messages, recordings
from tests.contract.recordings import Case
from tests.support import forked
from tests.support.processes import wait_for

CASES = recordings.read("grpc")
DIFFERENCES = recordings.differences()
AVAILABLE, END = 30, 50
RESPONSES = {
    "Predict": predict_pb2.PredictResponse,
    "Classify": classification_pb2.ClassificationResponse,
    "Regress": regression_pb2.RegressionResponse,
    "MultiInference": inference_pb2.MultiInferenceResponse,
    "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataResponse,
    "GetModelStatus": get_model_status_pb2.GetModelStatusResponse,
}


@pytest.fixture(scope="module")
def channels(
    recorded_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], grpc.Channel]]:
    """Channels to servers by configuration; each server starts on first use."""
    with ExitStack() as stack:

        @functools.cache
        def channel(name: str) -> grpc.Channel:
            folder = tmp_path_factory.mktemp(name)
            setup = recordings.set_up(name, recorded_models, folder)
            running = forked.start_model_server(folder / "log", *setup.flags)
            stack.callback(running.stop)
            channel = stack.enter_context(grpc.insecure_channel(running.address))
            wait_until_settled(channel, setup.models)
            return channel

        yield channel


def wait_until_settled(channel: grpc.Channel, models: list[str]) -> None:
    """Wait until no version of these models is loading."""
    stub = model_service_pb2_grpc.ModelServiceStub(channel)

    def is_settled(model: str) -> bool:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        versions = stub.GetModelStatus(request).model_version_status
        states: set[int] = {version.state for version in versions}
        return states <= {AVAILABLE, END}

    wait_for(lambda: all(is_settled(model) for model in models), "everything is loaded")


def call(channel: grpc.Channel, case: Case) -> tuple[bytes, str, str]:
    """Return the bytes of the response, and the status code and details."""
    method: Any = channel.unary_unary(case["rpc"])
    try:
        return method(base64.b64decode(case["request_base64"]), timeout=60), "OK", ""
    except grpc.RpcError as error:
        return b"", error.code().name, error.details() or ""


def compare(case: Case, data: bytes, code: str, details: str) -> list[str]:
    error: Any = case.get("error") or {"code": "OK", "details": ""}
    if code != error["code"]:
        return [f"{code} {details!r}, expected {error['code']} {error['details']!r}"]
    if code != "OK":
        is_equal = not case["text_stable"] or details == error["details"]
        return [] if is_equal else [f"{details!r}, expected {error['details']!r}"]
    response_type = RESPONSES[case["rpc"].rpartition("/")[2]]
    expected = messages.to_values(
        response_type.FromString(base64.b64decode(case["response_base64"]))
    )
    actual = messages.to_values(response_type.FromString(data))
    ignored = () if case["text_stable"] else ("error_message",)
    return list(comparing.differences(expected, actual, ignored))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded_call_gets_the_recorded_response(
    channels: Callable[[str], grpc.Channel], case: Case
) -> None:
    data, code, details = call(channels(case["server"]), case)
    differences = compare(case, data, code, details)
    listed = DIFFERENCES.get(case["id"])
    if listed is None:
        assert not differences, case["about"]
    else:
        assert differences, "it is listed as a difference but does not differ"
        assert (code, details) == (listed["code"], listed.get("details", ""))
