"""A small model with columns of every kind that describes itself as trained models do.

Each column's contribution shows which value the model has received: a number or a date's days
divided by 100, 1 for true, a category's index in the vocabulary, `UNKNOWN` for an unknown category,
`MISSING` for a missing value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

UNKNOWN = -1.0
MISSING = -2.0
BIAS = -3.0
CLASSES = ("stays", "leaves")


@dataclass(frozen=True)
class MixedColumn:
    """A column: its dtype in the signature and its facts in `describe`."""

    name: str
    dtype: Any
    vocabulary: tuple[str, ...] = ()
    missing: bool = False
    class_means: tuple[float, float] = (0.0, 0.0)
    class_modes: tuple[int, int] = (-1, -1)
    mode: int | None = None

    @property
    def kind(self) -> str:
        kinds = {tf.float32: "numeric", tf.float64: "date", tf.bool: "boolean"}
        return kinds.get(self.dtype, "categorical")


COLUMNS = (
    MixedColumn("Age (years)", tf.float32, class_means=(50.5, 30.25)),
    MixedColumn("income", tf.float32, missing=True, class_means=(4.0, 2.0)),
    MixedColumn("city", tf.string, ("Bern", "Basel", " Zug"), class_modes=(0, 2)),
    # Integers and booleans that may be missing are strings, since int64 and bool have no NaN.
    MixedColumn("district", tf.string, ("7", "42", "13"), missing=True, class_modes=(1, 0)),
    MixedColumn("garden", tf.string, ("false", "true"), missing=True, class_modes=(0, 0)),
    MixedColumn("rooms", tf.int64, ("3", "2", "9007199254740993"), class_modes=(0, 2)),
    MixedColumn("balcony", tf.bool, ("false", "true"), class_modes=(1, 0)),
)


# The columns of a model that takes missing values in every column.
COMPLETE = (
    MixedColumn("size", tf.float32, class_means=(50.5, 30.25), mode=-1),
    MixedColumn("built", tf.float64, class_means=(18000.0, 19000.0), mode=-1),
    MixedColumn("city", tf.string, ("Bern", "Basel"), class_modes=(0, 1), mode=0),
    MixedColumn("rooms", tf.int64, ("3", "2"), class_modes=(0, 1), mode=1),
    MixedColumn("balcony", tf.bool, ("false", "true"), class_modes=(1, 0), mode=1),
)
LABEL_NAME = "sold"


class Mixed(tf.Module):
    """The signatures of the model."""

    def __init__(self, columns: Sequence[MixedColumn]) -> None:
        super().__init__()
        self.columns = columns
        self.tables = {
            str(i): tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    tf.strings.to_number(column.vocabulary, tf.int64)
                    if column.dtype == tf.int64
                    else tf.constant(column.vocabulary),
                    tf.range(len(column.vocabulary), dtype=tf.int64),
                ),
                default_value=int(UNKNOWN),
            )
            for i, column in enumerate(columns)
            if column.kind == "categorical"
        }

    def explain(self, **values: Any) -> dict[str, Any]:
        contributions = [self._encode(i, values[f"column_{i}"]) for i in range(len(self.columns))]
        contribution = tf.stack(contributions, axis=1)
        return {"contribution": contribution, "bias": tf.fill([tf.shape(contribution)[0]], BIAS)}

    def predict(self, **values: Any) -> dict[str, Any]:
        logit = tf.reduce_sum(self.explain(**values)["contribution"], axis=1) + BIAS
        labels = tf.where(logit >= 0.0, CLASSES[1], CLASSES[0])
        return {"logit": logit, "probability": tf.sigmoid(logit), "label": labels}

    def describe(self, query: Any) -> dict[str, Any]:
        columns = self.columns
        facts = {
            "columns": tf.constant([c.name for c in columns]),
            "kinds": tf.constant([c.kind for c in columns]),
            "vocabulary_values": tf.constant([v for c in columns for v in c.vocabulary], tf.string),
            "vocabulary_lengths": tf.constant([len(c.vocabulary) for c in columns], tf.int32),
            "means": tf.constant([sum(c.class_means) / 2 for c in columns], tf.float64),
            "deviations": tf.ones(len(columns), tf.float64),
            "minimums": tf.constant([min(c.class_means) for c in columns], tf.float64),
            "maximums": tf.constant([max(c.class_means) for c in columns], tf.float64),
            "class_means": tf.transpose(tf.constant([c.class_means for c in columns], tf.float64)),
            "class_modes": tf.transpose(tf.constant([c.class_modes for c in columns], tf.int32)),
            "missing": tf.constant([c.missing for c in columns]),
            "class_names": tf.constant(CLASSES),
            "threshold": tf.constant(0.5, tf.float64),
            "trained_at": tf.constant("2025-01-02T03:04:05+00:00"),
            "metric_names": tf.constant(["accuracy"]),
            "metric_values": tf.constant([0.75], tf.float64),
        }
        if all(c.mode is not None for c in columns):
            facts["modes"] = tf.constant([c.mode for c in columns], tf.int32)
            facts["label_name"] = tf.constant(LABEL_NAME)
        queries = tf.shape(query)[0]
        return {name: tf.repeat(fact[tf.newaxis], queries, axis=0) for name, fact in facts.items()}

    def _encode(self, index: int, values: Any) -> Any:
        column = self.columns[index]
        if column.kind in ("numeric", "date"):
            contribution = tf.cast(values / 100.0, tf.float32)
            return tf.where(tf.math.is_nan(contribution), MISSING, contribution)
        if column.kind == "boolean":
            return tf.cast(values, tf.float32)
        position = tf.cast(self.tables[str(index)].lookup(values), tf.float32)
        return tf.where(values == "", MISSING, position) if column.dtype == tf.string else position


def publish(base_path: Path, version: int = 1, columns: Sequence[MixedColumn] = COLUMNS) -> None:
    """Export a version beside the base path and rename it into place."""
    module = Mixed(columns)
    inputs = {
        f"column_{i}": tf.TensorSpec([None], column.dtype, f"column_{i}")
        for i, column in enumerate(columns)
    }
    query = {"query": tf.TensorSpec([None], tf.int32, "query")}
    signatures = {
        name: tf.function(function, autograph=False).get_concrete_function(**specs)
        for name, function, specs in (
            ("serving_default", module.predict, inputs),
            ("explain", module.explain, inputs),
            ("describe", module.describe, query),
        )
    }
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = base_path.parent / f".tmp-{version}"
    tf.saved_model.save(module, str(hidden), signatures=signatures)
    _name_inputs(hidden / "saved_model.pb", [column.name for column in columns])
    hidden.rename(base_path / str(version))


def _name_inputs(saved_model: Path, names: Sequence[str]) -> None:
    """Rename the inputs to the columns' names; TensorFlow saves only Python identifiers."""
    proto = saved_model_pb2.SavedModel.FromString(saved_model.read_bytes())
    for graph in proto.meta_graphs:
        for signature in ("serving_default", "explain"):
            inputs = graph.signature_def[signature].inputs
            infos = [inputs.pop(f"column_{i}") for i in range(len(names))]
            for name, info in zip(names, infos, strict=True):
                inputs[name].CopyFrom(info)
    saved_model.write_bytes(proto.SerializeToString(deterministic=True))
