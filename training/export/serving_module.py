"""The fitted model as a SavedModel that describes itself over the wire.

Its signatures:

serving_default
    each column by name, `[batch]`: a numeric one float32, NaN where missing; a boolean one bool; a
    categorical one int64 if its values are integers and none was missing, else string, empty where
    missing → `probability` and `logit`, float32 `[batch]`, and `label`, string `[batch]`
dense
    only if all columns are numeric: `features`, float32 `[batch, columns]` → the same
explain
    like serving_default → `contribution`, float32 `[batch, columns]`, and `bias`, float32
    `[batch]`; their sum is the logit
describe
    `query`, int32 `[batch]`, any value → what the model is; see `describe` below
classification, regression
    `inputs`, string `[batch]`, each a serialized `tf.Example` → what TensorFlow Serving's
    Classify and Regress need

The preprocessing lives inside the graph, so what was trained is what is served.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from training.features.columns import Column, Floats, encode, features

MAX_QUERIES = 1024
METHODS = {
    "classification": "tensorflow/serving/classify",
    "regression": "tensorflow/serving/regress",
}
# What TensorFlow takes for the name of an argument.
ARGUMENT_NAME = re.compile(r"(?!self$)[A-Za-z][A-Za-z0-9_]*")

Inputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TrainedModel:
    """Everything that a served version needs.

    Attributes:
        columns: what was learned of the columns, in the table's order.
        weights: float64 `[features]`, see `columns.encode`.
        bias: log-odds of a row whose every feature is 0.
        label_name: name of the label column.
        class_names: what the labels 0 and 1 stand for.
        threshold: probability from which on the label is class 1.
        trained_at: when, ISO 8601, UTC.
        metrics: of the held-out rows, by name.
    """

    columns: tuple[Column, ...]
    weights: Floats
    bias: float
    label_name: str
    class_names: tuple[str, str]
    threshold: float
    trained_at: str
    metrics: Mapping[str, float]

    @property
    def is_numeric(self) -> bool:
        """Whether all columns are."""
        return all(column.kind == "numeric" for column in self.columns)

    def inputs(self, frame: pl.DataFrame) -> Inputs:
        """Return rows as what `serving_default` takes.

        Args:
            frame: numeric columns as numbers, the others as text; null is a missing value.
        """
        return {column.name: _input(column, frame[column.name]) for column in self.columns}

    def typical_rows(self) -> pl.DataFrame:
        """Return an average row of each class: examples that give nobody's data away."""
        return pl.DataFrame(
            {
                column.name: pl.Series(column.class_means, dtype=pl.Float32)
                if column.kind == "numeric"
                else pl.Series(
                    [column.vocabulary[m] if m >= 0 else None for m in column.class_modes],
                    dtype=pl.String,
                )
                for column in self.columns
            }
        )


class LogisticRegressionModule(tf.Module):
    """The serving graph of a trained model."""

    def __init__(self, model: TrainedModel, dtype: Any = tf.float32) -> None:
        """Build it.

        Args:
            model: what to serve.
            dtype: what to compute in.
        """
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.weights = tf.Variable(model.weights, dtype=dtype, name="weights")
        self.bias = tf.Variable(model.bias, dtype=dtype, name="bias")
        self.class_names = tf.constant(model.class_names)
        self.numeric = [c.name for c in model.columns if c.kind == "numeric"]
        self.others = [c for c in model.columns if c.kind != "numeric"]
        self.vocabularies = {
            c.name: _vocabulary(c) for c in self.others if c.kind == "categorical" and c.vocabulary
        }
        # Which column each feature belongs to, as a matrix, `[features, columns]`.
        owners = [feature.column for feature in features(model.columns)]
        self.ownership = tf.one_hot(owners, len(model.columns), dtype=dtype)

    def dense(self, features: Any) -> dict[str, Any]:
        """Predict rows given as one matrix, float32 `[batch, columns]`."""
        return self._predicted(self._encoded(features, tf.zeros([tf.shape(features)[0], 0])))

    def by_column(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Predict rows given as one tensor `[batch]` for each column."""
        return self._predicted(self._read(columns))

    def explain(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Split each row's logit into the columns' shares and the bias."""
        contribution = tf.matmul(self._read(columns) * self.weights, self.ownership)
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
        model, columns = self.model, self.model.columns
        # A few bytes of request must not ask for gigabytes of reply.
        message = f"describe takes at most {MAX_QUERIES} queries"
        check = tf.debugging.Assert(tf.shape(query)[0] <= MAX_QUERIES, [message])
        facts = {
            "columns": tf.constant([c.name for c in columns]),
            "kinds": tf.constant([c.kind for c in columns]),
            "missing": tf.constant([c.missing for c in columns]),
            "vocabulary_values": tf.constant(
                [value for c in columns for value in c.vocabulary], tf.string
            ),
            "vocabulary_lengths": tf.constant([len(c.vocabulary) for c in columns], tf.int32),
            "means": tf.constant([c.mean for c in columns], tf.float64),
            "deviations": tf.constant([c.deviation for c in columns], tf.float64),
            "minimums": tf.constant([c.minimum for c in columns], tf.float64),
            "maximums": tf.constant([c.maximum for c in columns], tf.float64),
            "class_names": tf.constant(model.class_names),
            "label_name": tf.constant(model.label_name),
            "class_means": tf.constant(np.array([c.class_means for c in columns]).T, tf.float64),
            "class_modes": tf.constant(np.array([c.class_modes for c in columns]).T, tf.int32),
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
        probability = self.by_column(self._parsed(inputs))["probability"]
        scores = tf.stack([1.0 - probability, probability], axis=1)
        classes = tf.repeat(self.class_names[tf.newaxis], tf.shape(inputs)[0], axis=0)
        return {"classes": classes, "scores": scores}

    def regression(self, inputs: Any) -> dict[str, Any]:
        """Predict serialized `tf.Example`s for Regress: the probability of class 1."""
        return {"outputs": self.by_column(self._parsed(inputs))["probability"]}

    def _predicted(self, encoded: Any) -> dict[str, Any]:
        logit = tf.linalg.matvec(encoded, self.weights) + self.bias
        probability = tf.sigmoid(logit)
        is_class_1 = tf.cast(probability >= self.model.threshold, tf.int32)
        return {
            "probability": probability,
            "label": tf.gather(self.class_names, is_class_1),
            "logit": logit,
        }

    def _read(self, columns: Mapping[str, Any]) -> Any:
        rows = tf.shape(next(iter(columns.values())))[0]
        numbers = [columns[name] for name in self.numeric]
        places = [self._places(column, columns[column.name]) for column in self.others]
        return self._encoded(
            tf.stack(numbers, axis=1) if numbers else tf.zeros([rows, 0]),
            tf.stack(places, axis=1) if places else tf.zeros([rows, 0], tf.int32),
        )

    def _encoded(self, numbers: Any, places: Any) -> Any:
        return encode(self.model.columns, numbers, places, self.dtype)

    def _places(self, column: Column, values: Any) -> Any:
        """Find values in a column's vocabulary; see `columns.encode`."""
        if column.kind == "boolean":
            return tf.cast(values, tf.int32)
        unknown = len(column.vocabulary)
        if column.name not in self.vocabularies:
            found = tf.fill(tf.shape(values), unknown)
        else:
            found = self.vocabularies[column.name].lookup(values)
        if values.dtype == tf.string:
            return tf.where(tf.equal(values, ""), unknown + 1, found)
        return found

    def _parsed(self, serialized: Any) -> Any:
        parsed = tf.io.parse_example(
            serialized, {column.name: _example_feature(column) for column in self.model.columns}
        )
        return {
            column.name: tf.cast(parsed[column.name], column.dtype)
            if column.kind == "boolean"
            else parsed[column.name]
            for column in self.model.columns
        }


def export(model: TrainedModel, directory: Path) -> None:
    """Write the model as a SavedModel into a directory, which may exist.

    Raises:
        OSError: the directory cannot be written.
    """
    module = LogisticRegressionModule(model)
    arguments = argument_names(model.columns)
    by_column = {
        arguments[column.name]: tf.TensorSpec([None], column.dtype, arguments[column.name])
        for column in model.columns
    }

    def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **inputs: function(
            {column.name: inputs[arguments[column.name]] for column in model.columns}
        )

    query = {"query": tf.TensorSpec([None], tf.int32, "query")}
    examples = {"inputs": tf.TensorSpec([None], tf.string, "inputs")}
    signatures = {
        "serving_default": _signature(renamed(module.by_column), by_column),
        "explain": _signature(renamed(module.explain), by_column),
        "describe": _signature(module.describe, query),
        "classification": _signature(module.classification, examples),
        "regression": _signature(module.regression, examples),
    }
    if model.is_numeric:
        dense = {"features": tf.TensorSpec([None, len(model.columns)], tf.float32, "features")}
        signatures["dense"] = _signature(module.dense, dense)
    # Saving imports generated code, whose bytecode would be left in TMPDIR.
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        tf.saved_model.save(module, str(directory), signatures=signatures)
    except tf.errors.OpError as error:  # TensorFlow's own name for a full disk and the like
        raise OSError(error.message) from error
    finally:
        sys.dont_write_bytecode = writes_none
    _amend(directory / "saved_model.pb", arguments)


def predict(model: TrainedModel, inputs: Inputs, dtype: Any = tf.float32) -> Floats:
    """Return the serving graph's own probability of class 1, `[rows]`.

    Args:
        model: the model.
        inputs: what `TrainedModel.inputs` gives.
        dtype: what to compute in; a version that is served computes in float32.
    """
    module = LogisticRegressionModule(model, dtype)
    outputs = module.by_column({name: tf.constant(values) for name, values in inputs.items()})
    return np.asarray(outputs["probability"], np.float64)


def argument_names(columns: tuple[Column, ...]) -> dict[str, str]:
    """Return by what name TensorFlow's functions know each column; mostly its own."""
    # TensorFlow tells the nodes of a graph apart whatever the case of their names.
    taken = Counter(column.name.lower() for column in columns)
    names = {}
    for position, column in enumerate(columns):
        name = column.name
        if not ARGUMENT_NAME.fullmatch(name) or iskeyword(name) or taken[name.lower()] > 1:
            name = f"column_{position}"
            while name in taken:
                name += "_"
        names[column.name] = name
    return names


def _signature(function: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(**inputs)


def _amend(saved_model: Path, arguments: Mapping[str, str]) -> None:
    """Write down what `tf.saved_model.save` cannot: each signature's RPC, columns' own names."""
    stored = saved_model_pb2.SavedModel.FromString(saved_model.read_bytes())
    for graph in stored.meta_graphs:
        for signature, method in METHODS.items():
            graph.signature_def[signature].method_name = method
        for signature in ("serving_default", "explain"):
            inputs = graph.signature_def[signature].inputs
            for column, argument in arguments.items():
                if argument != column:
                    inputs[column].CopyFrom(inputs[argument])
                    del inputs[argument]
    saved_model.write_bytes(stored.SerializeToString(deterministic=True))


def _vocabulary(column: Column) -> Any:
    keys: Any = list(column.vocabulary)
    if column.dtype == tf.int64:
        keys = [int(key) for key in keys]
    initializer = tf.lookup.KeyValueTensorInitializer(
        tf.constant(keys, column.dtype), tf.range(len(keys), dtype=tf.int32)
    )
    return tf.lookup.StaticHashTable(initializer, default_value=len(keys))


def _input(column: Column, values: pl.Series) -> npt.NDArray[Any]:
    if column.kind == "numeric":
        return values.cast(pl.Float32).fill_null(float("nan")).to_numpy()
    if column.kind == "boolean":
        return (values == "true").fill_null(False).to_numpy()
    if column.dtype == tf.int64:
        return values.cast(pl.Int64, strict=False).fill_null(-(2**63)).to_numpy()
    return np.array([value.encode() for value in values.fill_null("")], np.object_)


def _example_feature(column: Column) -> Any:
    dtype = tf.int64 if column.kind == "boolean" else column.dtype
    default = None
    if column.missing:
        default = float("nan") if column.kind == "numeric" else ""
    return tf.io.FixedLenFeature([], dtype, default)
