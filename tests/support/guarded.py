"""A model that rejects some rows and has outputs without one row per input row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf


class Guarded(tf.Module):
    """y = 2 x; running the graph fails if an x is negative."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def double(self, x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "x is negative")]):
            return {"y": 2.0 * x, "text": tf.strings.as_string(x, precision=0)}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def distinct(self, x: Any) -> dict[str, Any]:
        return {"y": tf.unique(x).y}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])
    def column(self, x: Any) -> dict[str, Any]:
        return {"y": 2.0 * x}


def publish(base_path: Path) -> None:
    """Export version 1."""
    module = Guarded()
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = base_path.parent / ".tmp-guarded"
    signatures = {
        "serving_default": module.double,
        "distinct": module.distinct,
        "column": module.column,
    }
    tf.saved_model.save(module, str(hidden), signatures=signatures)
    hidden.rename(base_path / "1")
