"""Publish a copy of a model's oldest version that crashes, is slow, or swaps the labels.

    python -m examples.rollout.faulty crashing|slow|swapped [DIRECTORY]

The directory of the model's versions is models/breast_cancer by default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

FAULTS = ("crashing", "slow", "swapped")
PREDICTIONS = ("serving_default", "dense")
SECONDS = 0.3


def main(fault: str, directory: Path) -> None:
    """Write the copy to a hidden directory, and rename it to the next version number."""
    versions = [int(child.name) for child in directory.iterdir() if child.name.isdecimal()]
    loaded = tf.saved_model.load(str(directory / str(min(versions))))
    module = tf.Module()
    module.loaded = loaded
    signatures = {
        name: _add_fault(name, signature, fault) for name, signature in loaded.signatures.items()
    }
    hidden = directory / f".{fault}"
    tf.saved_model.save(module, str(hidden), signatures=signatures)
    print(hidden.rename(directory / str(max(versions) + 1)))


def _add_fault(name: str, signature: Any, fault: str) -> Any:
    specs = signature.structured_input_signature[1]
    # Golden rows would reveal the fault before any request.
    omitted = {"golden"} if name == "describe" else set()

    def serve(**inputs: Any) -> dict[str, Any]:
        outputs = signature(**inputs)
        if name in PREDICTIONS:
            outputs = _FAULT_FUNCTIONS[fault](outputs)
        return {key: value for key, value in outputs.items() if key not in omitted}

    return tf.function(serve, autograph=False).get_concrete_function(**specs)


def _crash(outputs: dict[str, Any]) -> dict[str, Any]:
    empty = tf.strings.substr(tf.io.read_file("/nonexistent"), 0, 0)
    return _add_zero(outputs, tf.strings.length(empty))


def _delay(outputs: dict[str, Any]) -> dict[str, Any]:
    specs: dict[str, Any] = {"output_types": [tf.int32], "output_shapes": [tf.TensorShape([])]}
    zero = tf.data.Dataset.from_tensors(0)._variant_tensor
    # The dataset sleeps before its element and again before its end.
    microseconds = tf.constant(int(1e6 * SECONDS / 2), tf.int64)
    dataset = tf.raw_ops.SleepDataset(input_dataset=zero, sleep_microseconds=microseconds, **specs)
    return _add_zero(outputs, tf.raw_ops.DatasetToSingleElement(dataset=dataset, **specs)[0])


def _add_zero(outputs: dict[str, Any], zero: Any) -> dict[str, Any]:
    """Add a zero that the graph must compute; a control dependency would be optimized away."""
    return {**outputs, "probability": outputs["probability"] + tf.cast(zero, tf.float32)}


def _swap(outputs: dict[str, Any]) -> dict[str, Any]:
    labels = tf.where(outputs["label"] == "benign", "malignant", "benign")
    return {
        **outputs,
        "label": labels,
        "probability": 1 - outputs["probability"],
        "logit": -outputs["logit"],
    }


_FAULT_FUNCTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "crashing": _crash,
    "slow": _delay,
    "swapped": _swap,
}

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in FAULTS:
        sys.exit((__doc__ or "").strip())
    main(sys.argv[1], Path(*sys.argv[2:] or ["models/breast_cancer"]))
