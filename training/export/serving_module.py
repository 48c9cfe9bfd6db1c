"""The fitted model as a SavedModel that describes itself over the wire.

Its signatures:

serving_default
    each column by name, `[batch]`: numeric as float32, or float64 if it needs it, NaN where
    missing; date as float64, days since 1970-01-01T00:00Z, NaN where missing; boolean as bool;
    categorical as int64 if its values are integers and none was missing in training, else string;
    −2⁶³ and "" are missing → `probability` and `logit`, float32 `[batch]`, and `label`, string
    `[batch]`
dense
    only if all columns are numbers or dates: `features`, `[batch, columns]`, float64 if any of them
    is, else float32 → the same outputs
explain
    like serving_default → `contribution`, float32 `[batch, columns]`, and `bias`, float32
    `[batch]`; their sum is the logit
describe
    `query`, int32 `[batch]`, any value → the description of the model; see `describe` below
classification, regression
    `inputs`, string `[batch]`, each a serialized `tf.Example` → the outputs that TensorFlow
    Serving's Classify and Regress need

The preprocessing is part of the graph, so serving cannot differ from training.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from training.features.cells import ISO_DATES
from training.features.columns import Column, Floats
from training.features.encoder import Cells, Encoder

MAX_QUERIES = 1024
METHODS = {
    "classification": "tensorflow/serving/classify",
    "regression": "tensorflow/serving/regress",
}
# Names that TensorFlow accepts for arguments.
ARGUMENT_NAME = re.compile(r"(?!self$)[A-Za-z][A-Za-z0-9_]*")

Inputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TrainedModel:
    """Everything that a served version needs.

    Attributes:
        columns: the columns with their statistics, in the table's order.
        weights: float64 `[features]`, see `Encoder`.
        bias: log-odds of a row whose features are all 0.
        class_names: names of class 0 and class 1.
        threshold: probability at and above which the label is class 1.
        trained_at: time of the fit, ISO 8601, UTC.
        metrics: metrics on the held-out rows, by name.
        label_name: the label column.
        reference: JSON, see `evaluation/reference.py`; empty if there is none.
        golden: JSON, see `evaluation/golden.py`; empty if there is none.
        intervals: 95% intervals of the metrics, by name; empty if they are unknown.
        missing_marks: marks of missing values, besides those that are always read as missing.
    """

    columns: tuple[Column, ...]
    weights: Floats
    bias: float
    class_names: tuple[str, str]
    threshold: float
    trained_at: str
    metrics: Mapping[str, float]
    label_name: str
    reference: str = ""
    golden: str = ""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    missing_marks: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        """Whether all columns are numbers or dates."""
        return all(column.is_number for column in self.columns)

    def inputs(self, frame: pl.DataFrame) -> Inputs:
        """Return the inputs of `serving_default` for parsed cells; null is a missing value."""
        return {column.name: column.input_values(frame[column.name]) for column in self.columns}

    def typical_rows(self) -> pl.DataFrame:
        """Return the average row of each class, which reveals no individual's data."""
        return pl.DataFrame({column.name: column.typical_cells() for column in self.columns})


class LogisticRegressionModule(tf.Module):
    """The serving graph of a trained model."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = model
        self.encoder = Encoder(model.columns)
        self.weights = tf.Variable(model.weights, dtype=tf.float32, name="weights")
        self.bias = tf.Variable(model.bias, dtype=tf.float32, name="bias")
        self.class_names = tf.constant(model.class_names)
        self.readers = {column.name: column.reader() for column in model.columns}
        # One-hot `[features, columns]`: the column that each feature belongs to.
        self.ownership = tf.one_hot(self.encoder.owners, len(model.columns), dtype=tf.float32)

    def dense(self, features: Any) -> dict[str, Any]:
        """Predict rows given as one matrix `[batch, columns]`."""
        columns = list(self.model.columns)

        def select(group: list[Any], dtype: Any) -> Any:
            indices = tf.constant([columns.index(column) for column in group], tf.int32)
            is_all = len(group) == len(columns)
            return tf.cast(features if is_all else tf.gather(features, indices, axis=1), dtype)

        numbers, wide = self.encoder.numbers, self.encoder.wide
        cells = Cells(select(numbers, tf.float32), select(wide, tf.float64), None)
        return self._predict(self.encoder.encode(cells, tf.float32))

    def by_column(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Predict rows given as one tensor `[batch]` for each column."""
        return self._predict(self._encode(columns))

    def explain(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Split each row's logit into the columns' contributions and the bias."""
        contribution = tf.matmul(self._encode(columns) * self.weights, self.ownership)
        return {
            "contribution": contribution,
            "bias": tf.fill([tf.shape(contribution)[0]], self.bias.read_value()),
        }

    def describe(self, query: Any) -> dict[str, Any]:
        """Return the description of the model, once for each element of `query`.

        Every output has a leading batch dimension, as server-side batching requires. Vocabularies
        are ragged: `vocabulary_values` concatenates them, and `vocabulary_lengths` has the length
        of each (0 for a numeric column).
        """
        model, columns = self.model, self.model.columns
        # A small request must not produce gigabytes of response.
        message = f"describe takes at most {MAX_QUERIES} queries"
        check = tf.debugging.Assert(tf.shape(query)[0] <= MAX_QUERIES, [message])
        facts = {
            "columns": tf.constant([c.name for c in columns]),
            "kinds": tf.constant([c.kind for c in columns]),
            "missing": tf.constant([c.missing for c in columns]),
            "modes": tf.constant([c.mode for c in columns], tf.int32),
            "label_name": tf.constant(model.label_name),
            "vocabulary_values": tf.constant(
                [value for c in columns for value in c.vocabulary], tf.string
            ),
            "vocabulary_lengths": tf.constant([len(c.vocabulary) for c in columns], tf.int32),
            "means": tf.constant([c.mean for c in columns], tf.float64),
            "deviations": tf.constant([c.deviation for c in columns], tf.float64),
            "minimums": tf.constant([c.minimum for c in columns], tf.float64),
            "maximums": tf.constant([c.maximum for c in columns], tf.float64),
            "class_names": tf.constant(model.class_names),
            "class_means": tf.constant(np.array([c.class_means for c in columns]).T, tf.float64),
            "class_modes": tf.constant(np.array([c.class_modes for c in columns]).T, tf.int32),
            "threshold": tf.constant(model.threshold, tf.float64),
            "trained_at": tf.constant(model.trained_at),
            "metric_names": tf.constant(list(model.metrics)),
            "metric_values": tf.constant(list(model.metrics.values()), tf.float64),
        }
        if model.intervals:
            facts["metric_intervals"] = tf.constant(
                [model.intervals[name] for name in model.metrics], tf.float64
            )
        for name, text in (("reference", model.reference), ("golden", model.golden)):
            if text:
                facts[name] = tf.constant(text)
        # Notation that a client cannot infer from a table.
        if model.missing_marks:
            facts["missing_marks"] = tf.constant(model.missing_marks)
        forms = [column.form for column in columns]
        if any(form != ISO_DATES for form in forms):
            facts["date_forms"] = tf.constant(forms)
        with tf.control_dependencies([check]):
            queries = tf.identity(tf.shape(query)[0])
        return {name: tf.repeat(fact[tf.newaxis], queries, axis=0) for name, fact in facts.items()}

    def classification(self, inputs: Any) -> dict[str, Any]:
        """Predict serialized `tf.Example`s for Classify; return both classes and their scores."""
        probability = self.by_column(self._parse(inputs))["probability"]
        scores = tf.stack([1.0 - probability, probability], axis=1)
        classes = tf.repeat(self.class_names[tf.newaxis], tf.shape(inputs)[0], axis=0)
        return {"classes": classes, "scores": scores}

    def regression(self, inputs: Any) -> dict[str, Any]:
        """Predict serialized `tf.Example`s for Regress; return the probability of class 1."""
        return {"outputs": self.by_column(self._parse(inputs))["probability"]}

    def _predict(self, features: Any) -> dict[str, Any]:
        """Predict encoded rows `[batch, features]`."""
        logit = tf.linalg.matvec(features, self.weights) + self.bias
        probability = tf.sigmoid(logit)
        is_class_1 = tf.cast(probability >= self.model.threshold, tf.int32)
        return {
            "probability": probability,
            "label": tf.gather(self.class_names, is_class_1),
            "logit": logit,
        }

    def _encode(self, columns: Mapping[str, Any]) -> Any:
        """Encode rows given as one tensor `[batch]` for each column; return `[batch, features]`."""
        rows = tf.shape(next(iter(columns.values())))[0]
        encoder = self.encoder

        def stack(group: list[Any], dtype: Any) -> Any:
            cells = [self.readers[column.name](columns[column.name]) for column in group]
            return tf.stack(cells, axis=1) if cells else tf.zeros([rows, 0], dtype)

        cells = Cells(
            stack(encoder.numbers, tf.float32),
            stack(encoder.wide, tf.float64),
            stack(encoder.categories, tf.int32),
        )
        return encoder.encode(cells, tf.float32)

    def _parse(self, serialized: Any) -> dict[str, Any]:
        """Return the columns of serialized `tf.Example`s, `[batch]` each."""
        parsed = tf.io.parse_example(
            serialized, {column.name: _example_feature(column) for column in self.model.columns}
        )
        return {
            column.name: tf.cast(parsed[column.name], column.dtype) for column in self.model.columns
        }


def export(model: TrainedModel, directory: Path) -> None:
    """Write the model as a SavedModel to a directory, which may exist.

    Raises:
        OSError: the directory cannot be written.
    """
    module = LogisticRegressionModule(model)
    arguments = argument_names(model.columns)
    by_column = {
        arguments[column.name]: tf.TensorSpec([None], column.dtype, arguments[column.name])
        for column in model.columns
    }

    def map_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **inputs: function(
            {column.name: inputs[arguments[column.name]] for column in model.columns}
        )

    query = {"query": tf.TensorSpec([None], tf.int32, "query")}
    examples = {"inputs": tf.TensorSpec([None], tf.string, "inputs")}
    signatures = {
        "serving_default": _signature(map_arguments(module.by_column), by_column),
        "explain": _signature(map_arguments(module.explain), by_column),
        "describe": _signature(module.describe, query),
        "classification": _signature(module.classification, examples),
        "regression": _signature(module.regression, examples),
    }
    if model.is_numeric:
        needs_float64 = any(column.dtype == tf.float64 for column in model.columns)
        dtype = tf.float64 if needs_float64 else tf.float32
        dense = {"features": tf.TensorSpec([None, len(model.columns)], dtype, "features")}
        signatures["dense"] = _signature(module.dense, dense)
    # Saving imports generated code, whose bytecode would be left in TMPDIR.
    previous, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        tf.saved_model.save(module, str(directory), signatures=signatures)
    except tf.errors.OpError as error:  # raised by TensorFlow for a full disk and the like
        raise OSError(error.message) from error
    finally:
        sys.dont_write_bytecode = previous
    _complete_signatures(directory / "saved_model.pb", arguments)


def argument_names(columns: tuple[Column, ...]) -> dict[str, str]:
    """Return a TensorFlow argument name for each column: its own name if possible."""
    # TensorFlow ignores case in the names of a graph's nodes.
    lowercase_names = Counter(column.name.lower() for column in columns)
    names = {}
    for position, column in enumerate(columns):
        name = column.name
        if (
            not ARGUMENT_NAME.fullmatch(name)
            or iskeyword(name)
            or lowercase_names[name.lower()] > 1
        ):
            name = f"column_{position}"
            while name in lowercase_names:
                name += "_"
        names[column.name] = name
    return names


def _signature(function: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(**inputs)


def _complete_signatures(path: Path, arguments: Mapping[str, str]) -> None:
    """Set method names and name inputs after columns, which `tf.saved_model.save` cannot do."""
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in saved_model.meta_graphs:
        for signature, method in METHODS.items():
            graph.signature_def[signature].method_name = method
        for signature in ("serving_default", "explain"):
            inputs = graph.signature_def[signature].inputs
            for column, argument in arguments.items():
                if argument != column:
                    inputs[column].CopyFrom(inputs[argument])
                    del inputs[argument]
    path.write_bytes(saved_model.SerializeToString(deterministic=True))


def _example_feature(column: Column) -> Any:
    return tf.io.FixedLenFeature([], column.example_dtype, column.example_default)
