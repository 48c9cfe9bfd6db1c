"""Warm-up: the requests that came with a version are answered before it becomes available.

They lie in `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`tensorflow.serving.PredictionLog` messages; see saved_model_warmup_util.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.batching.session import Session
from serving.errors import ServingError, invalid_argument, unimplemented
from serving.servables.classify_and_regress import classify, multi_inference, regress
from serving.servables.predict import predict

REQUESTS_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000
_ANSWERS: dict[str, Callable[..., Any]] = {
    "predict_log": predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


def warm_up(session: Session, iterations: int = 1, *, check_method: bool = False) -> int:
    """Answer the warm-up requests of a version, and return how many there are.

    Args:
        session: what the version will answer with.
        iterations: how often to answer each.
        check_method: refuse signatures that were exported for another method.

    Raises:
        ServingError: the file cannot be read, or a request fails; the version is not to be served.
    """
    path = session.servable.path / REQUESTS_FILE
    if not path.exists():
        return 0
    records = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            records += 1
            if records > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError:
                raise invalid_argument(
                    f"Failed to parse warmup record: {record[:40]!r} from {path}"
                ) from None
            for _ in range(iterations):
                _answer(session, log, check_method)
    except tf.errors.DataLossError as error:
        raise ServingError.from_number(
            error.error_code,
            f"{error.message}. Please verify your warmup data is in TFRecord format.",
        ) from error
    except tf.errors.OpError as error:
        raise ServingError.from_number(error.error_code, error.message) from error
    return records


def _answer(session: Session, log: Any, check_method: bool) -> None:
    kind = log.WhichOneof("log_type")
    if kind in _ANSWERS:
        request = getattr(log, kind).request
        _ANSWERS[kind](session.servable, session.run, request, check_method=check_method)
    elif kind == "session_run_log":
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise unimplemented(f"Unsupported log_type for warmup: {number}")
