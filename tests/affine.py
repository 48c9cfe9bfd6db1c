"""A model that is small, tells its version, and takes as long as a test wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

SLOW = 400  # rounds that keep two cores busy for seconds


class Affine(tf.Module):
    """y = 10 x + version, after as much work as asked for."""

    def __init__(self, version: int, rounds: int) -> None:
        super().__init__()
        self.version = tf.Variable(float(version))
        self.rounds = rounds

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        _, work = tf.while_loop(
            lambda done, work: done < self.rounds,
            lambda done, work: (done + 1, tf.matmul(work, work) / 800.0),
            (tf.constant(0), tf.ones([800, 800])),
        )
        return {"y": 10.0 * x + self.version + 0.0 * work[0, 0]}


def publish(base_path: Path, version: int, rounds: int = 0) -> None:
    """Export beside the base path and rename into place."""
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = base_path.parent / f".tmp-{version}"
    module = Affine(version, rounds)
    tf.saved_model.save(module, str(hidden), signatures=module.serve)
    hidden.rename(base_path / str(version))
