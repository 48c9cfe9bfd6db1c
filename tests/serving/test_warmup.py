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
from tests.support.caller import model_config, predict_request, raises_rpc_error
from tests.support.processes import wait_for

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")
INVALID_ARGUMENT, UNIMPLEMENTED, DATA_LOSS = 3, 12, 15


def write_records(version: Path, logs: Sequence[Any]) -> None:
    (version / RECORDS).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / RECORDS)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(signature: str = "", **inputs: Any) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request("m", inputs, signature))
    return log


def add_example(request: Any, **features: float) -> None:
    example = request.input.example_list.examples.add()
    for name, value in features.items():
        example.features.feature[name].float_list.value.append(value)


def classify_log(signature: str) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.signature_name = signature
    add_example(log.classify_log.request, x=1.0)
    return log


def regress_log(signature: str, **features: float) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.regress_log.request.model_spec.signature_name = signature
    add_example(log.regress_log.request, **features)
    return log


def multi_inference_log(**methods: str) -> Any:
    log = prediction_log_pb2.PredictionLog()
    for signature, method in methods.items():
        task = log.multi_inference_log.request.tasks.add(method_name=method)
        task.model_spec.name = "m"
        task.model_spec.signature_name = signature
    add_example(log.multi_inference_log.request, x=1.0)
    return log


def session_run_log() -> Any:
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
    write_records(counting, [predict_log("incr_counter")] * 3)
    server = serve(*model_flags(counting.parent), *flags)
    response = server.predict("m", {}, signature="get_counter")
    assert response.outputs["output"].float_val == [times]


def test_more_than_1000_warm_up_requests_fail_the_load(counting: Path, serve: Serve) -> None:
    write_records(counting, [predict_log("incr_counter")] * 1000)
    server = serve(*model_flags(counting.parent))
    response = server.predict("m", {}, signature="get_counter")
    assert response.outputs["output"].float_val == [1000]
    version = counting.parent.parent / "2"
    shutil.copytree(counting, version)
    write_records(version, [predict_log("incr_counter")] * 1001)
    version.rename(counting.parent / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert error.error_code == INVALID_ARGUMENT
    assert "Number of warmup records exceeds the maximum (1000)" in error.error_message


@pytest.mark.parametrize(
    "log",
    [
        predict_log(x=[[1.0]]),
        classify_log("classify_x_to_y"),
        regress_log("regress_x_to_y", x=1.0),
        multi_inference_log(regress_x_to_y=REGRESS, classify_x_to_y=CLASSIFY),
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
            predict_log(z=[[1.0]]),
            INVALID_ARGUMENT,
            "Signature input alias: x(feed name: x:0) not found",
        ),
        (predict_log("nosuch"), 9, 'Serving signature key "nosuch" not found.'),
        (classify_log("nosuch"), INVALID_ARGUMENT, "No signature was found with the name: nosuch"),
        (regress_log("regress_x_to_y"), INVALID_ARGUMENT, "Feature: x (data type: float)"),
        (
            multi_inference_log(nosuch=REGRESS),
            INVALID_ARGUMENT,
            "signature not found in model graph: nosuch",
        ),
        (session_run_log(), UNIMPLEMENTED, "Unsupported log_type for warmup: 5"),
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
    write_records(half, [predict_log(x=[[1.0]]), log])
    half.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert (error.error_code, text in error.error_message) == (code, True), error
    assert server.predict_x() == ([11.0], 1)
    with raises_rpc_error("NOT_FOUND"):
        server.predict_x(version=2)


def test_method_name_check_rejects_signatures_of_other_methods(
    base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--enable_signature_method_name_check")
    half = base_path.parent / "half"
    export(half, lambda: half_plus(2.0))
    write_records(half, [multi_inference_log(classify_x_to_y=REGRESS)])
    half.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    text = server.statuses()[2].status.error_message
    assert text == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: "
        "tensorflow/serving/classify"
    )


def test_empty_record_is_skipped(counting: Path, serve: Serve) -> None:
    write_records(counting, [prediction_log_pb2.PredictionLog(), predict_log("incr_counter")])
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
        version = publish(base_path.parent / "hidden", number)
        write_records(version, [predict_log(x=[1.0] * rows)])
        version.rename(base_path / str(number))

    publish_with_rows(2, 3)
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status.error_message
    assert error == "Task size 3 is larger than maximum input batch size 2"
    publish_with_rows(3, 2)
    wait_for(lambda: server.is_available(3), "version 3")


def test_slow_warm_up_does_not_delay_other_models_at_startup(tmp_path: Path, serve: Serve) -> None:
    slow = publish(tmp_path / "slow", 1, seconds=1.0)
    write_records(slow, [predict_log(x=[1.0])])
    publish(tmp_path / "fast", 1)
    models = (model_config(tmp_path / name) for name in ("slow", "fast"))
    log = serve(config_flag(tmp_path, *models)).running.output()
    loaded = "Successfully loaded servable version {name: "
    assert 0 < log.index(f"{loaded}fast ") < log.index(f"{loaded}slow ")


def _truncate(records: Path) -> None:
    records.write_bytes(records.read_bytes()[:-5])


def _overwrite(records: Path) -> None:
    records.write_bytes(b"not a record")


def _replace_by_directory(records: Path) -> None:
    records.unlink()
    records.mkdir()


@pytest.mark.parametrize("corrupt", [_truncate, _overwrite, _replace_by_directory])
def test_unreadable_warm_up_file_fails_the_load(
    base_path: Path, serve: Serve, corrupt: Callable[[Path], None]
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    version = publish(base_path.parent / "hidden", 2)
    write_records(version, [predict_log(x=[1.0])] * 2)
    corrupt(version / RECORDS)
    version.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    assert server.statuses()[2].status.error_code not in (0, 2)  # neither OK nor UNKNOWN
    assert server.predict_x() == ([11.0], 1)


def test_invalid_warm_up_records_fail_the_load(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    version = publish(base_path.parent / "hidden", 2)
    (version / RECORDS).parent.mkdir()
    with tf.io.TFRecordWriter(str(version / RECORDS)) as writer:
        writer.write(b"\xff no message")
    version.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert error.error_code == INVALID_ARGUMENT
    assert error.error_message.startswith("Failed to parse warmup record")
