"""Warm-up requests, which a server runs before a version becomes available.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog` messages, so that the first caller does not wait for one-time initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from training.export.serving_module import Inputs, TrainedModel

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")

Outputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """A call of a signature: its inputs, and its expected outputs if known."""

    signature_name: str
    inputs: Inputs
    outputs: Outputs


def write(model: TrainedModel, directory: Path) -> None:
    """Add a request for each signature that Predict calls, with the average row of each class.

    Raises:
        OSError: the directory cannot be written.
    """
    by_column = model.inputs(model.typical_rows())
    calls = [
        Call("serving_default", by_column, {}),
        Call("explain", by_column, {}),
        Call("describe", {"query": np.zeros(1, np.int32)}, {}),
    ]
    if model.is_numeric:
        matrix = np.stack(list(by_column.values()), axis=1)  # float64 if any column is
        calls.append(Call("dense", {"features": matrix}, {}))
    path = directory / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    write_calls(path, calls)


def write_calls(path: Path, calls: Iterable[Call]) -> None:
    """Write a file of `PredictionLog` messages.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for call in calls:
                log = prediction_log_pb2.PredictionLog().predict_log
                # No model name, because the version may be served under any.
                log.request.model_spec.signature_name = call.signature_name
                for name, values in call.inputs.items():
                    log.request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
                for name, values in call.outputs.items():
                    log.response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
                writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def read_calls(path: Path) -> Iterator[Call]:
    """Yield the calls in a file of `PredictionLog` messages."""
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        yield Call(
            log.request.model_spec.signature_name,
            {name: tf.make_ndarray(tensor) for name, tensor in log.request.inputs.items()},
            {name: tf.make_ndarray(tensor) for name, tensor in log.response.outputs.items()},
        )
