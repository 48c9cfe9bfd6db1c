"""Warm-up requests run before a version is available, and fail its load if they fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.contract.tf1_models import CLASSIFY, REGRESS, counter, export, half_plus
from tests.serving.conftest import Serve, config_flag, model_flags
from tests.support.affine import publish
from tests.support.caller import model_config, predict_request, refused
from tests.support.processes import wait_for

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")
INVALID_ARGUMENT, UNIMPLEMENTED, DATA_LOSS = 3, 12, 15


def write_records(version: Path, logs: Sequence[Any]) -> None:
    (version / RECORDS).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / RECORDS)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predicting(signature: str = "", **inputs: Any) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request("m", inputs, signature))
    return log


def one_example(request: Any, **features: float) -> None:
    example = request.input.example_list.examples.add()
    for name, value in features.items():
        example.features.feature[name].float_list.value.append(value)


def classifying(signature: str) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.signature_name = signature
    one_example(log.classify_log.request, x=1.0)
    return log


def regressing(signature: str, **features: float) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.regress_log.request.model_spec.signature_name = signature
    one_example(log.regress_log.request, **features)
    return log


def inferring(**methods: str) -> Any:
    log = prediction_log_pb2.PredictionLog()
    for signature, method in methods.items():
        task = log.multi_inference_log.request.tasks.add(method_name=method)
        task.model_spec.name = "m"
        task.model_spec.signature_name = signature
    one_example(log.multi_inference_log.request, x=1.0)
    return log


def replaying() -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.SetInParent()
    return log


@pytest.fixture
def counting(base_path: Path) -> Path:
    """Version 1 of a model that counts its calls."""
    export(base_path / "1", counter)
    return base_path / "1"


@pytest.mark.parametrize(
    ("flags", "times"),
    [
        ((), 3),
        (("--num_request_iterations_for_warmup=2",), 6),
        (("--enable_model_warmup=false",), 0),
    ],
)
def test_flags_set_the_number_of_warm_up_iterations(
    counting: Path, serve: Serve, flags: Sequence[str], times: int
) -> None:
    write_records(counting, [predicting("incr_counter")] * 3)
    server = serve(*model_flags(counting.parent), *flags)
    response = server.predict("m", {}, signature="get_counter")
    assert response.outputs["output"].float_val == [times]


def test_more_than_1000_warm_up_requests_fail_the_load(counting: Path, serve: Serve) -> None:
    write_records(counting, [predicting("incr_counter")] * 1000)
    server = serve(*model_flags(counting.parent))
    response = server.predict("m", {}, signature="get_counter")
    assert response.outputs["output"].float_val == [1000]
    more = counting.parent.parent / "2"
    shutil.copytree(counting, more)
    write_records(more, [predicting("incr_counter")] * 1001)
    more.rename(counting.parent / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert error.error_code == INVALID_ARGUMENT
    assert "Number of warmup records exceeds the maximum (1000)" in error.error_message


@pytest.mark.parametrize(
    "log",
    [
        predicting(x=[[1.0]]),
        classifying("classify_x_to_y"),
        regressing("regress_x_to_y", x=1.0),
        inferring(regress_x_to_y=REGRESS, classify_x_to_y=CLASSIFY),
    ],
    ids=["predict", "classify", "regress", "multi_inference"],
)
def test_every_request_type_warms_up_a_model(base_path: Path, serve: Serve, log: Any) -> None:
    export(base_path / "1", lambda: half_plus(2.0))
    write_records(base_path / "1", [log])
    server = serve(*model_flags(base_path))
    assert server.is_available(1)
    assert "model m version 1: 1 warm-up requests" in server.running.output()


@pytest.mark.parametrize(
    ("log", "code", "text"),
    [
        (
            predicting(z=[[1.0]]),
            INVALID_ARGUMENT,
            "Signature input alias: x(feed name: x:0) not found",
        ),
        (predicting("nosuch"), 9, 'Serving signature key "nosuch" not found.'),
        (classifying("nosuch"), INVALID_ARGUMENT, "No signature was found with the name: nosuch"),
        (regressing("regress_x_to_y"), INVALID_ARGUMENT, "Feature: x (data type: float)"),
        (inferring(nosuch=REGRESS), INVALID_ARGUMENT, "signature not found in model graph: nosuch"),
        (replaying(), UNIMPLEMENTED, "Unsupported log_type for warmup: 5"),
    ],
    ids=["predict", "signature", "classify", "regress", "multi_inference", "session_run"],
)
def test_failing_warm_up_request_fails_the_load(
    base_path: Path, serve: Serve, log: Any, code: int, text: str
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    half = base_path.parent / "half"
    export(half, lambda: half_plus(2.0))
    write_records(half, [predicting(x=[[1.0]]), log])
    half.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert (error.error_code, text in error.error_message) == (code, True), error
    assert server.ask() == ([11.0], 1)
    with refused("NOT_FOUND"):
        server.ask(version=2)


def test_method_name_check_rejects_signatures_of_other_methods(
    base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--enable_signature_method_name_check")
    half = base_path.parent / "half"
    export(half, lambda: half_plus(2.0))
    write_records(half, [inferring(classify_x_to_y=REGRESS)])
    half.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    text = server.statuses()[2].status.error_message
    assert text == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: "
        "tensorflow/serving/classify"
    )


def test_empty_record_is_skipped(counting: Path, serve: Serve) -> None:
    write_records(counting, [prediction_log_pb2.PredictionLog(), predicting("incr_counter")])
    server = serve(*model_flags(counting.parent))
    response = server.predict("m", {}, signature="get_counter")
    assert response.outputs["output"].float_val == [1]


def test_warm_up_requests_must_fit_into_a_batch(base_path: Path, serve: Serve) -> None:
    parameters = base_path.parent / "batching.config"
    parameters.write_text("max_batch_size { value: 2 }")
    publish(base_path, 1)
    server = serve(
        *model_flags(base_path), "--enable_batching", f"--batching_parameters_file={parameters}"
    )

    def publish_with_rows(number: int, rows: int) -> None:
        other = publish(base_path.parent / "other", number)
        write_records(other, [predicting(x=[1.0] * rows)])
        other.rename(base_path / str(number))

    publish_with_rows(2, 3)
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status.error_message
    assert error == "Task size 3 is larger than maximum input batch size 2"
    publish_with_rows(3, 2)
    wait_for(lambda: server.is_available(3), "version 3")


def test_slow_warm_up_does_not_delay_other_models_at_startup(tmp_path: Path, serve: Serve) -> None:
    slow = publish(tmp_path / "slow", 1, seconds=1.0)
    write_records(slow, [predicting(x=[1.0])])
    publish(tmp_path / "quick", 1)
    models = (model_config(tmp_path / name) for name in ("slow", "quick"))
    log = serve(config_flag(tmp_path, *models)).running.output()
    loaded = "Successfully loaded servable version {name: "
    assert 0 < log.index(f"{loaded}quick ") < log.index(f"{loaded}slow ")


def _cut_off(records: Path) -> None:
    records.write_bytes(records.read_bytes()[:-5])


def _garbage(records: Path) -> None:
    records.write_bytes(b"not a record")


def _directory(records: Path) -> None:
    records.unlink()
    records.mkdir()


@pytest.mark.parametrize("spoil", [_cut_off, _garbage, _directory])
def test_unreadable_warm_up_file_fails_the_load(
    base_path: Path, serve: Serve, spoil: Callable[[Path], None]
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    spoiled = publish(base_path.parent / "spoiled", 2)
    write_records(spoiled, [predicting(x=[1.0])] * 2)
    spoil(spoiled / RECORDS)
    spoiled.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    assert server.statuses()[2].status.error_code not in (0, 2)  # neither OK nor UNKNOWN
    assert server.ask() == ([11.0], 1)


def test_invalid_warm_up_records_fail_the_load(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    spoiled = publish(base_path.parent / "spoiled", 2)
    (spoiled / RECORDS).parent.mkdir()
    with tf.io.TFRecordWriter(str(spoiled / RECORDS)) as writer:
        writer.write(b"\xff no message")
    spoiled.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert error.error_code == INVALID_ARGUMENT
    assert error.error_message.startswith("Failed to parse warmup record")
