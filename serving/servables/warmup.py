"""Warm-up: runs the requests that come with a version before it becomes available.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `tensorflow.serving.PredictionLog`
messages; see saved_model_warmup_util.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import ServingError, invalid_argument, unimplemented
from serving.servables.classify_and_regress import classify, multi_inference, regress
from serving.servables.predict import predict
from serving.servables.saved_model import check_regular
from serving.servables.servable import Servable

REQUESTS_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000
_HANDLERS: dict[str, Callable[[Servable, Any], Any]] = {
    "predict_log": predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


def warm_up(servable: Servable, iterations: int) -> int:
    """Run a servable's warm-up requests and return their number.

    Args:
        servable: the version, which is not available yet.
        iterations: runs of each request.

    Raises:
        ServingError: the file cannot be read, or a request fails.
    """
    path = servable.path / REQUESTS_FILE
    if not path.exists():
        return 0
    check_regular(path)
    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            count += 1
            if count > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
            log = _parse(record, path)
            for _ in range(iterations):
                _run(servable, log)
    except tf.errors.DataLossError as error:
        raise ServingError.from_number(
            error.error_code,
            f"{error.message}. Please verify your warmup data is in TFRecord format.",
        ) from error
    except tf.errors.OpError as error:
        raise ServingError.from_number(error.error_code, error.message) from error
    return count


def _parse(record: bytes, path: Path) -> Any:
    try:
        return prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError:
        raise invalid_argument(
            f"Failed to parse warmup record: {record[:40]!r} from {path}"
        ) from None


def _run(servable: Servable, log: Any) -> None:
    kind = log.WhichOneof("log_type")
    if kind in _HANDLERS:
        _HANDLERS[kind](servable, getattr(log, kind).request)
    elif kind == "session_run_log":
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise unimplemented(f"Unsupported log_type for warmup: {number}")
