"""Models in TensorFlow 1's format that replace TensorFlow Serving's own test models.

The recordings contain names and values of those models, so these have the same signatures, tensor
names and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

v1 = tf.compat.v1
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

Signatures = dict[str, Any]


def export_all(folder: Path) -> None:
    """Export the three models into a folder of models, with the assets of the original ones."""
    for version in ("00000123", "00000124"):
        export(folder / "half_plus_two" / version, lambda: _with_asset(folder, half_plus(2.0)))
    export(folder / "half_plus_three" / "00000123", lambda: _with_asset(folder, half_plus(3.0)))
    export(folder / "counter" / "00000123", counter)


def export(path: Path, build: Callable[[], Signatures]) -> None:
    """Save the graph that `build` makes, with the tables and assets in its collections."""
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = build()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            [v1.saved_model.SERVING],
            signature_def_map=signatures,
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()


def half_plus(offset: float) -> Signatures:
    """Build y = x / 2 + offset, y2 = x / 2 + 3, y3 = x2 / 2 + 3 for tensors and tf.Examples."""
    half = _variable("a", 0.5)
    b, three = _variable("b", offset), _variable("c", 3.0)
    example = v1.placeholder(tf.string, name="tf_example")
    features = {
        "x": tf.io.FixedLenFeature([1], tf.float32),
        "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
    }
    # TensorFlow 2's parser would give the examples a known rank.
    parsed = v1.io.parse_example(example, features)
    x, x2 = (tf.identity(tf.ensure_shape(parsed[name], [None, 1]), name) for name in features)
    y = tf.add(half * x, b, "y")
    y2 = tf.add(half * x, three, "y2")
    y3 = tf.add(half * x2, three, "y3")
    return {
        "serving_default": signature({"x": x}, {"y": y}, PREDICT),
        "regress_x_to_y": signature({"inputs": example}, {"outputs": y}, REGRESS),
        "regress_x_to_y2": signature({"inputs": example}, {"outputs": y2}, REGRESS),
        "regress_x2_to_y3": signature({"inputs": x2}, {"outputs": y3}, REGRESS),
        "classify_x_to_y": signature({"inputs": example}, {"scores": y}, CLASSIFY),
        "classify_x2_to_y3": signature({"inputs": x2}, {"scores": y3}, CLASSIFY),
    }


def counter() -> Signatures:
    """Build a counter in a reference variable, which was TensorFlow 1's kind of variable."""
    count = _variable("counter", 0.0)
    delta = v1.placeholder(tf.float32, name="delta")
    updates = {
        "incr_counter": lambda: v1.assign_add(count, 1.0),
        "incr_counter_by": lambda: v1.assign_add(count, delta),
        "reset_counter": lambda: v1.assign(count, 0.0),
    }
    signatures = {"get_counter": signature({}, {"output": count}, PREDICT)}
    for name, update in updates.items():
        with v1.name_scope(f"{name}_op"):
            inputs = {"delta": delta} if name == "incr_counter_by" else {}
            signatures[name] = signature(inputs, {"output": update()}, PREDICT)
    return signatures


def signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str) -> Any:
    """Return a SignatureDef."""
    return v1.saved_model.signature_def_utils.build_signature_def(
        {name: _info(tensor) for name, tensor in inputs.items()},
        {name: _info(tensor) for name, tensor in outputs.items()},
        method,
    )


def _with_asset(folder: Path, signatures: Signatures) -> Signatures:
    file = folder / "foo.txt"
    file.write_text("an asset\n")
    v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, tf.constant(str(file)))
    return signatures


def _variable(name: str, value: float) -> Any:
    return v1.Variable(value, name=name, use_resource=False, dtype=tf.float32)


def _info(tensor: Any) -> Any:
    # For a variable, use the reference itself, which has the reference dtype.
    tensor = getattr(tensor, "_variable", tensor)
    return meta_graph_pb2.TensorInfo(
        name=tensor.name,
        dtype=tensor.dtype.as_datatype_enum,
        tensor_shape=tensor.shape.as_proto(),
    )
