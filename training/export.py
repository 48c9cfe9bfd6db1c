"""The fitted model as a SavedModel that describes itself over the wire.

Its signatures:

serving_default
    each column by name, float32 `[batch]` → `probability` and `logit`, float32 `[batch]`, and
    `label`, string `[batch]`
dense
    `features`, float32 `[batch, columns]` → the same
explain
    like serving_default → `contribution`, float32 `[batch, columns]`, and `bias`, float32
    `[batch]`; their sum is the logit
describe
    `query`, int32 `[batch]`, any value → what the model is; see `describe` below
classification, regression
    `inputs`, string `[batch]`, each a serialized `tf.Example` → what TensorFlow Serving's
    Classify and Regress need

The scaling lives inside the graph, so what was trained is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from training.dataset import Floats

MAX_QUERIES = 1024
METHODS = {
    "classification": "tensorflow/serving/classify",
    "regression": "tensorflow/serving/regress",
}


@dataclass(frozen=True)
class TrainedModel:
    """Everything that a served version needs.

    Attributes:
        columns: names, in the order of the arrays below.
        mean, scale: float64 `[columns]`; a column is served as `(value − mean) / scale`.
        minimum, maximum: float64 `[columns]`, the range seen in training.
        class_means: float64 `[2, columns]`, the average row of each class: examples that give
            nobody's data away.
        weights: float64 `[columns]`, for scaled columns.
        bias: log-odds of a row whose every column is at its mean.
        class_names: what the labels 0 and 1 stand for.
        threshold: probability from which on the label is class 1.
        trained_at: when, ISO 8601, UTC.
        metrics: of the held-out rows, by name.
    """

    columns: tuple[str, ...]
    mean: Floats
    scale: Floats
    minimum: Floats
    maximum: Floats
    class_means: Floats
    weights: Floats
    bias: float
    class_names: tuple[str, str]
    threshold: float
    trained_at: str
    metrics: Mapping[str, float]

    def probability(self, features: Floats) -> Floats:
        """Return the probability of class 1 of rows `[rows, columns]`, computed in float64."""
        logit = (features - self.mean) / self.scale @ self.weights + self.bias
        return np.exp(-np.logaddexp(0.0, -logit))


class LogisticRegressionModule(tf.Module):
    """The serving graph of a trained model, in float32."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = model
        self.mean = tf.constant(model.mean, tf.float32)
        self.scale = tf.constant(model.scale, tf.float32)
        self.weights = tf.Variable(model.weights, dtype=tf.float32, name="weights")
        self.bias = tf.Variable(model.bias, dtype=tf.float32, name="bias")
        self.class_names = tf.constant(model.class_names)

    def dense(self, features: Any) -> dict[str, Any]:
        """Predict rows given as one matrix, float32 `[batch, columns]`."""
        logit = tf.linalg.matvec(self._scaled(features), self.weights) + self.bias
        probability = tf.sigmoid(logit)
        is_class_1 = tf.cast(probability >= self.model.threshold, tf.int32)
        return {
            "probability": probability,
            "label": tf.gather(self.class_names, is_class_1),
            "logit": logit,
        }

    def by_column(self, **columns: Any) -> dict[str, Any]:
        """Predict rows given as one float32 `[batch]` tensor for each column."""
        return self.dense(self._stacked(columns))

    def explain(self, **columns: Any) -> dict[str, Any]:
        """Split each row's logit into the columns' shares and the bias."""
        contribution = self._scaled(self._stacked(columns)) * self.weights
        return {
            "contribution": contribution,
            "bias": tf.fill([tf.shape(contribution)[0]], self.bias.read_value()),
        }

    def describe(self, query: Any) -> dict[str, Any]:
        """Return what the model is, once for each element of `query`.

        The leading batch dimension of every output lets server-side batching accept the call.
        The columns' vocabularies are ragged: `vocabulary_values` holds them one after the other,
        `vocabulary_lengths` how many values each column has (none if it is numeric).
        """
        model, n = self.model, len(self.model.columns)
        # A few bytes of request must not ask for gigabytes of reply.
        message = f"describe takes at most {MAX_QUERIES} queries"
        check = tf.debugging.Assert(tf.shape(query)[0] <= MAX_QUERIES, [message])
        facts = {
            "columns": tf.constant(model.columns),
            "kinds": tf.constant(["numeric"] * n),
            "vocabulary_values": tf.constant([], tf.string),
            "vocabulary_lengths": tf.zeros(n, tf.int32),
            "means": tf.constant(model.mean, tf.float64),
            "deviations": tf.constant(model.scale, tf.float64),
            "minimums": tf.constant(model.minimum, tf.float64),
            "maximums": tf.constant(model.maximum, tf.float64),
            "class_names": tf.constant(model.class_names),
            "class_means": tf.constant(model.class_means, tf.float64),
            "threshold": tf.constant(model.threshold, tf.float64),
            "trained_at": tf.constant(model.trained_at),
            "metric_names": tf.constant(list(model.metrics)),
            "metric_values": tf.constant(list(model.metrics.values()), tf.float64),
        }
        with tf.control_dependencies([check]):
            queries = tf.identity(tf.shape(query)[0])
        return {name: tf.repeat(fact[tf.newaxis], queries, axis=0) for name, fact in facts.items()}

    def classification(self, inputs: Any) -> dict[str, Any]:
        """Predict serialized `tf.Example`s for Classify: both classes and their scores."""
        probability = self.dense(self._parsed(inputs))["probability"]
        scores = tf.stack([1.0 - probability, probability], axis=1)
        classes = tf.repeat(self.class_names[tf.newaxis], tf.shape(inputs)[0], axis=0)
        return {"classes": classes, "scores": scores}

    def regression(self, inputs: Any) -> dict[str, Any]:
        """Predict serialized `tf.Example`s for Regress: the probability of class 1."""
        return {"outputs": self.dense(self._parsed(inputs))["probability"]}

    def _scaled(self, features: Any) -> Any:
        return (features - self.mean) / self.scale

    def _stacked(self, columns: Mapping[str, Any]) -> Any:
        return tf.stack([columns[name] for name in self.model.columns], axis=1)

    def _parsed(self, serialized: Any) -> Any:
        features = {name: tf.io.FixedLenFeature([], tf.float32) for name in self.model.columns}
        return self._stacked(tf.io.parse_example(serialized, features))


def export(model: TrainedModel, directory: Path) -> None:
    """Write the model as a SavedModel into a directory, which may exist.

    Raises:
        OSError: the directory cannot be written.
    """
    module = LogisticRegressionModule(model)
    by_column = {name: tf.TensorSpec([None], tf.float32, name) for name in model.columns}
    dense = {"features": tf.TensorSpec([None, len(model.columns)], tf.float32, "features")}
    query = {"query": tf.TensorSpec([None], tf.int32, "query")}
    examples = {"inputs": tf.TensorSpec([None], tf.string, "inputs")}
    signatures = {
        "serving_default": _signature(module.by_column, by_column),
        "dense": _signature(module.dense, dense),
        "explain": _signature(module.explain, by_column),
        "describe": _signature(module.describe, query),
        "classification": _signature(module.classification, examples),
        "regression": _signature(module.regression, examples),
    }
    try:
        tf.saved_model.save(module, str(directory), signatures=signatures)
    except tf.errors.OpError as error:  # TensorFlow's own name for a full disk and the like
        raise OSError(error.message) from error
    _set_methods(directory / "saved_model.pb")


def predict(model: TrainedModel, features: Floats) -> Floats:
    """Return the serving graph's own probability of class 1, `[rows]`, computed in float32."""
    module = LogisticRegressionModule(model)
    outputs = module.dense(tf.constant(features, tf.float32))
    return np.asarray(outputs["probability"], np.float64)


def _signature(function: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    return tf.function(function).get_concrete_function(**inputs)


def _set_methods(saved_model: Path) -> None:
    """Name the RPC each signature is for; `tf.saved_model.save` always writes Predict."""
    stored = saved_model_pb2.SavedModel.FromString(saved_model.read_bytes())
    for graph in stored.meta_graphs:
        for signature, method in METHODS.items():
            graph.signature_def[signature].method_name = method
    saved_model.write_bytes(stored.SerializeToString(deterministic=True))
