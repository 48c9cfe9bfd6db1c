"""The SavedModel in the process that answers HTTP, as the peers without a model server have it."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
import tensorflow as tf


class SavedModel:
    """Loaded once, called by its signature."""

    def __init__(self) -> None:
        self._model = tf.saved_model.load(os.environ["MODEL"])
        self._dense = self._model.signatures["dense"]

    def probabilities(self, rows: Any) -> npt.NDArray[np.float32]:
        """Return one probability for each row.

        Args:
            rows: lists of 30 numbers, or an array [rows, 30].
        """
        features = tf.constant(rows, tf.float32)
        found: npt.NDArray[np.float32] = self._dense(features=features)["probability"].numpy()
        return found
