"""Loading a SavedModel: the right graph, and only the parts that serving needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from tests.contract.tf1_models import PREDICT, Signatures, export, signature
from tests.serving.conftest import Serve, model_flags
from tests.support.affine import publish
from tests.support.processes import wait_for

v1 = tf.compat.v1


@pytest.mark.parametrize(("flags", "factor"), [((), 2.0), (("--saved_model_tags=fast,gpu",), 3.0)])
def test_graph_with_the_given_tags_is_served(
    base_path: Path, serve: Serve, flags: tuple[str, ...], factor: float
) -> None:
    builder = v1.saved_model.Builder(str(base_path / "1"))
    with tf.Graph().as_default(), v1.Session() as session:
        w = v1.Variable(1.0)
        session.run(v1.global_variables_initializer())
        x = v1.placeholder(tf.float32, [None])
        double, triple = (
            {"serving_default": signature({"x": x}, {"y": x * (times * w)}, PREDICT)}
            for times in (2.0, 3.0)
        )
        builder.add_meta_graph_and_variables(session, ["serve"], double)
        builder.add_meta_graph(["fast", "gpu"], triple)
        builder.save()
    assert serve(*model_flags(base_path), *flags).predict_x([5.0])[0] == [5.0 * factor]


def test_error_names_tags_that_no_graph_has(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    other = base_path.parent / "other"
    builder = v1.saved_model.Builder(str(other))
    with tf.Graph().as_default(), v1.Session() as session:
        builder.add_meta_graph_and_variables(session, ["train"], {})
        builder.save()
    other.rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert error.error_code == 5  # NOT_FOUND
    text = "Could not find meta graph def matching supplied tags: { serve }. To inspect available"
    assert error.error_message.startswith(text)


def _add_dangling_collections(meta_graph: Any) -> None:
    meta_graph.collection_def["pruned"].node_list.value.append("missing:0")
    meta_graph.collection_def["cond_context"].bytes_list.value.append(b"\xff")


def _add_dangling_colocation(meta_graph: Any) -> None:
    for node in meta_graph.graph_def.node:
        node.attr["_class"].list.s.append(b"loc:@missing")


def _add_saver_without_ops(meta_graph: Any) -> None:
    meta_graph.saver_def.restore_op_name = "save/restore_all"
    meta_graph.saver_def.filename_tensor_name = "save/Const:0"


def _remove_output_numbers(meta_graph: Any) -> None:
    definition = meta_graph.signature_def["serving_default"]
    for info in (definition.inputs["x"], definition.outputs["y"]):
        info.name = info.name.removesuffix(":0")


def _clear_dtypes(meta_graph: Any) -> None:
    definition = meta_graph.signature_def["serving_default"]
    for info in (definition.inputs["x"], definition.outputs["y"]):
        info.ClearField("dtype")


def _change_dtypes(meta_graph: Any) -> None:
    definition = meta_graph.signature_def["serving_default"]
    definition.inputs["x"].dtype = tf.float32._as_ref.as_datatype_enum
    definition.outputs["y"].dtype = tf.int64.as_datatype_enum


def _add_two_main_ops(meta_graph: Any) -> None:
    meta_graph.collection_def["saved_model_main_op"].node_list.value.extend(["x", "y"])


def _require_newer_tensorflow(meta_graph: Any) -> None:
    meta_graph.graph_def.versions.min_consumer = 99999


def export_modified(path: Path, modify: Callable[[Any], None]) -> None:
    def build() -> Signatures:
        x = v1.placeholder(tf.float32, [None], "x")
        return {"serving_default": signature({"x": x}, {"y": tf.multiply(x, 2.0, "y")}, PREDICT)}

    export(path, build)
    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    modify(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "modify",
    [
        _add_dangling_collections,
        _add_dangling_colocation,
        _add_saver_without_ops,
        _remove_output_numbers,
        _clear_dtypes,
        _change_dtypes,
    ],
)
def test_untidy_models_are_served(
    base_path: Path, serve: Serve, modify: Callable[[Any], None]
) -> None:
    export_modified(base_path / "1", modify)
    server = serve(*model_flags(base_path))
    response = server.predict("m", {"x": tf.constant([1.5])})
    assert response.outputs["y"].dtype == tf.float32.as_datatype_enum
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.0]


@pytest.mark.parametrize(
    ("modify", "code", "text"),
    [
        (_add_two_main_ops, 9, "Expected exactly one main op in : "),
        (_require_newer_tensorflow, 3, "GraphDef min consumer version 99999 above current version"),
    ],
)
def test_invalid_models_fail_with_the_reason(
    base_path: Path, serve: Serve, modify: Callable[[Any], None], code: int, text: str
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    export_modified(base_path.parent / "other", modify)
    (base_path.parent / "other").rename(base_path / "2")
    wait_for(lambda: server.has_ended(2), "version 2 has failed")
    error = server.statuses()[2].status
    assert (error.error_code, text in error.error_message) == (code, True), error
    assert server.predict_x() == ([11.0], 1)


def test_text_format_model_is_served(base_path: Path, serve: Serve) -> None:
    path = publish(base_path.parent / "text", 1)
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pbtxt").write_text(text_format.MessageToString(model))
    path.rename(base_path / "1")
    assert serve(*model_flags(base_path)).predict_x() == ([11.0], 1)
