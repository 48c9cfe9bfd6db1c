"""A small model that describes itself and misbehaves as a test chooses."""

from __future__ import annotations

import atexit
import functools
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

SETTINGS, GOLDEN = "settings.txt", "golden.txt"
CLASSES = ("no", "yes")
GOLDEN_ROWS = [-2.0, 0.25, 3.0]
# Faults: raise an error that is not the caller's, reject every row, return NaN.
RAISE, REFUSE, NAN = 1, 2, 3


class Canary(tf.Module):
    """probability = sigmoid(sign x), label "yes" from 0.5 up, y = 10 x + version."""

    def __init__(self, settings: Path, golden: Path) -> None:
        super().__init__()

        def table(file: Path, dtype: Any, default: Any) -> Any:
            lines = tf.lookup.TextFileInitializer(str(file), tf.string, 0, dtype, 1, delimiter="\t")
            return tf.lookup.StaticHashTable(lines, default_value=default)

        self.settings = table(settings, tf.float64, 0.0)
        self.golden = table(golden, tf.string, "")

    def predict(self, x: Any) -> dict[str, Any]:
        fault, sign = self._setting("fault"), tf.cast(self._setting("sign"), tf.float32)
        rejection = tf.debugging.Assert(tf.not_equal(fault, REFUSE), ["no row is good enough"])
        raised = tf.cond(
            tf.equal(fault, RAISE), lambda: tf.io.read_file("/nonexistent"), lambda: tf.constant("")
        )
        seconds = self._setting("seconds")
        slept = tf.cond(seconds > 0, lambda: sleep(seconds), lambda: tf.constant(0.0))
        with tf.control_dependencies([rejection, raised]):
            logit = sign * x + slept
        nan = tf.where(tf.equal(fault, NAN), tf.constant(math.nan), tf.constant(0.0))
        probability = tf.sigmoid(logit) + nan
        return {
            "probability": probability,
            "label": tf.gather(tf.constant(CLASSES), tf.cast(probability >= 0.5, tf.int32)),
            "y": 10.0 * x + tf.cast(self._setting("version"), tf.float32),
        }

    def explain(self, x: Any) -> dict[str, Any]:
        return {"contribution": x[:, tf.newaxis], "bias": 0.0 * x}

    def classification(self, inputs: Any) -> dict[str, Any]:
        probability = self.predict(_parse(inputs))["probability"]
        return {"scores": tf.stack([1 - probability, probability], axis=1)}

    def regression(self, inputs: Any) -> dict[str, Any]:
        return {"outputs": self.predict(_parse(inputs))["probability"]}

    def describe(self, query: Any) -> dict[str, Any]:
        facts = {
            "columns": tf.constant(["x"]),
            "kinds": tf.constant(["numeric"]),
            "vocabulary_values": tf.constant([], tf.string),
            "vocabulary_lengths": tf.constant([0]),
            **{
                name: tf.constant([value], tf.float64)
                for name, value in {
                    "means": 0.0,
                    "deviations": 1.0,
                    "minimums": -10.0,
                    "maximums": 10.0,
                }.items()
            },
            "class_names": tf.constant(CLASSES),
            "class_means": tf.constant([[-1.0], [1.0]], tf.float64),
            "threshold": tf.constant(0.5, tf.float64),
            "trained_at": tf.constant("2026-01-01T00:00:00Z"),
            "metric_names": tf.constant([], tf.string),
            "metric_values": tf.constant([], tf.float64),
            "golden": self.golden.lookup(tf.constant("golden")),
        }
        rows = tf.shape(query)[0]
        return {name: tf.repeat(fact[tf.newaxis], rows, axis=0) for name, fact in facts.items()}

    def _setting(self, name: str) -> Any:
        return self.settings.lookup(tf.constant(name))


def sleep(seconds: Any) -> Any:
    """Return 0 after this time without using the processor."""
    kinds: dict[str, Any] = {"output_types": [tf.float32], "output_shapes": [tf.TensorShape([])]}
    zero = tf.data.Dataset.from_tensors(0.0)._variant_tensor
    # The dataset sleeps before its element and again before its end.
    microseconds = tf.cast(1e6 / 2 * seconds, tf.int64)
    slept = tf.raw_ops.SleepDataset(input_dataset=zero, sleep_microseconds=microseconds, **kinds)
    return tf.raw_ops.DatasetToSingleElement(dataset=slept, **kinds)[0]


def _parse(serialized: Any) -> Any:
    feature = tf.io.FixedLenFeature([], tf.float32)
    return tf.io.parse_example(serialized, {"x": feature})["x"]


@functools.cache
def _template() -> Path:
    """Export a version to copy, since copying is much faster than exporting."""
    folder = Path(tempfile.mkdtemp(prefix="canary-"))
    atexit.register(shutil.rmtree, folder)
    (folder / SETTINGS).write_text("version\t0\n")
    (folder / GOLDEN).write_text("golden\t\n")
    module = Canary(folder / SETTINGS, folder / GOLDEN)

    def signature(function: Any, name: str, dtype: Any) -> Any:
        spec = {name: tf.TensorSpec([None], dtype, name)}
        return tf.function(function, autograph=False).get_concrete_function(**spec)

    tf.saved_model.save(
        module,
        str(folder / "0"),
        signatures={
            "serving_default": signature(module.predict, "x", tf.float32),
            "explain": signature(module.explain, "x", tf.float32),
            "describe": signature(module.describe, "query", tf.int32),
            "classification": signature(module.classification, "inputs", tf.string),
            "regression": signature(module.regression, "inputs", tf.string),
        },
    )
    return folder / "0"


def publish(
    base_path: Path,
    version: int,
    *,
    fault: int = 0,
    seconds: float = 0.0,
    sign: int = 1,
    golden_error: float | None = None,
) -> None:
    """Publish a version.

    Args:
        base_path: directory of the model's versions.
        version: its number.
        fault: RAISE, REFUSE, NAN, or 0 for none.
        seconds: duration of a call.
        sign: -1 flips every label.
        golden_error: error of its golden rows' probabilities; None for no golden rows.
    """
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = base_path.parent / f".tmp-{base_path.name}-{version}"
    shutil.copytree(_template(), hidden)
    settings = {"version": version, "fault": fault, "seconds": seconds, "sign": sign}
    lines = "".join(f"{name}\t{value}\n" for name, value in settings.items())
    (hidden / "assets" / SETTINGS).write_text(lines)
    golden = ""
    if golden_error is not None:
        probability = [1 / (1 + math.exp(-sign * x)) + golden_error for x in GOLDEN_ROWS]
        golden = json.dumps({"format": 1, "rows": {"x": GOLDEN_ROWS}, "probability": probability})
    (hidden / "assets" / GOLDEN).write_text(f"golden\t{golden}\n")
    hidden.rename(base_path / str(version))
