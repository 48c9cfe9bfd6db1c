"""Requests that a server answers before a version counts as available.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog` messages, so that the first caller does not wait for what happens only once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from training.export import TrainedModel

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")


def write(model: TrainedModel, directory: Path) -> None:
    """Add a request for each signature that Predict calls, with the average row of each class.

    Raises:
        OSError: the directory cannot be written.
    """
    rows = model.class_means
    by_column = {
        name: tf.make_tensor_proto(rows[:, i], tf.float32) for i, name in enumerate(model.columns)
    }
    requests = {
        "serving_default": by_column,
        "dense": {"features": tf.make_tensor_proto(rows, tf.float32)},
        "explain": by_column,
        "describe": {"query": tf.make_tensor_proto([0], tf.int32)},
    }
    path = directory / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for signature_name, inputs in requests.items():
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(_request(signature_name, inputs))
                writer.write(log.SerializeToString())
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def read(directory: Path) -> Iterator[Any]:
    """Yield the PredictRequests of a version."""
    for record in tf.data.TFRecordDataset(str(directory / WARMUP_FILE)).as_numpy_iterator():
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request


def _request(signature_name: str, inputs: Mapping[str, Any]) -> Any:
    request = predict_pb2.PredictRequest()
    # Without a model name, so that the version may be served under any.
    request.model_spec.signature_name = signature_name
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tensor)
    return request
