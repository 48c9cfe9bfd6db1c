"""A model of pictures that returns the mean brightness by half, mean colour and file size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

HEIGHT, WIDTH = 8, 16


class Pictures(tf.Module):
    """Inputs as a form can fill them: pixels with and without channels, and encoded bytes."""

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, HEIGHT, WIDTH], tf.float32, "grey"),
            tf.TensorSpec([None, HEIGHT, WIDTH, 3], tf.uint8, "colour"),
            tf.TensorSpec([None], tf.string, "image_bytes"),
        ],
    )
    def serve(self, grey: Any, colour: Any, image_bytes: Any) -> dict[str, Any]:
        return {
            "left": tf.reduce_mean(grey[:, :, : WIDTH // 2], axis=[1, 2]),
            "right": tf.reduce_mean(grey[:, :, WIDTH // 2 :], axis=[1, 2]),
            "colours": tf.reduce_mean(tf.cast(colour, tf.float32), axis=[1, 2]),
            "bytes": tf.strings.length(image_bytes),
        }


def publish(base_path: Path) -> None:
    """Export version 1."""
    module = Pictures()
    tf.saved_model.save(module, str(base_path / "1"), signatures=module.serve)
