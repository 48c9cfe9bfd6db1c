"""The SavedModel loaded into the HTTP server's process, for peers without a model server."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
import tensorflow as tf


class SavedModel:
    """The model at MODEL, called through its signature `dense`."""

    def __init__(self) -> None:
        self._model = tf.saved_model.load(os.environ["MODEL"])
        self._dense = self._model.signatures["dense"]

    def probabilities(self, rows: Any) -> npt.NDArray[np.float32]:
        """Return one probability for each row.

        Args:
            rows: lists of 30 numbers, or an array `[rows, 30]`.
        """
        features = tf.constant(rows, tf.float32)
        outputs: npt.NDArray[np.float32] = self._dense(features=features)["probability"].numpy()
        return outputs
