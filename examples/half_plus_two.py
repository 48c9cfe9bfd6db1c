"""Export y = x / 2 + 2 as a SavedModel: `half_plus_two.py DIRECTORY`."""

from __future__ import annotations

import sys
from typing import Any

import tensorflow as tf


class HalfPlusTwo(tf.Module):
    """TensorFlow Serving's own example model."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        """Compute y of x, both float32 `[batch]`."""
        return {"y": x / 2 + 2}


if __name__ == "__main__":
    module = HalfPlusTwo()
    tf.saved_model.save(module, sys.argv[1], signatures=module.serve)
