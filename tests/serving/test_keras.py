"""Models exported by Keras are served unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.serving.conftest import Serve, model_flags


def mixed_model() -> Any:
    """Return a Keras model with a categorical and a numeric input, a lookup table and weights."""
    city = keras.Input((), dtype="string", name="city")
    age = keras.Input((1,), name="age")
    index = keras.layers.StringLookup(vocabulary=["Bern", "Genf"])(city)
    embedded = keras.layers.Embedding(3, 4)(index)
    scaled = keras.layers.Normalization(mean=40.0, variance=100.0)(age)
    joined = keras.layers.Concatenate()([embedded, scaled])
    score = keras.layers.Dense(1, activation="sigmoid", name="score")(joined)
    return keras.Model({"city": city, "age": age}, score)


def test_exported_model_returns_the_same_outputs(base_path: Path, serve: Serve) -> None:
    keras.utils.set_random_seed(1)
    model = mixed_model()
    model.export(str(base_path / "1"), verbose=False)
    inputs = {
        "city": tf.constant(["Genf", "Bern", "Paris"]),
        "age": tf.constant([[20.0], [50.0], [80.0]]),
    }
    expected = model(inputs).numpy()
    server = serve(*model_flags(base_path))
    for signature in ("serving_default", "serve"):
        response = server.predict("m", inputs, signature=signature)
        (output,) = response.outputs.values()
        np.testing.assert_allclose(tf.make_ndarray(output), expected, rtol=1e-5)
