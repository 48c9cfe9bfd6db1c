"""A model that returns its inputs, with a signature for each dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

TYPES = {
    "BOOL": tf.bool,
    "UINT8": tf.uint8,
    "UINT16": tf.uint16,
    "UINT32": tf.uint32,
    "UINT64": tf.uint64,
    "INT8": tf.int8,
    "INT16": tf.int16,
    "INT32": tf.int32,
    "INT64": tf.int64,
    "FP16": tf.float16,
    "FP32": tf.float32,
    "FP64": tf.float64,
    "BYTES": tf.string,
    "BF16": tf.bfloat16,
}


def publish(base_path: Path) -> None:
    """Export version 1: one signature per type, one with several inputs and outputs, and a grid."""
    module = tf.Module()

    def signature(function: Any, **specs: tf.TensorSpec) -> Any:
        return tf.function(function, autograph=False).get_concrete_function(**specs)

    signatures = {
        name: signature(lambda x: {"y": tf.identity(x)}, x=tf.TensorSpec([None, None], dtype, "x"))
        for name, dtype in TYPES.items()
    }
    signatures["serving_default"] = signature(
        lambda text, number: {
            "text": tf.identity(text),
            "twice": 2.0 * number,
            "pair": tf.stack([number, -number], axis=1),
        },
        text=tf.TensorSpec([None], tf.string, "text"),
        number=tf.TensorSpec([None], tf.float32, "number"),
    )
    signatures["grid"] = signature(
        lambda x: {"total": tf.reduce_sum(x, axis=[1, 2])},
        x=tf.TensorSpec([None, 2, 3], tf.float32, "x"),
    )
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = base_path.parent / ".tmp-identity"
    tf.saved_model.save(module, str(hidden), signatures=signatures)
    hidden.rename(base_path / "1")
