"""Loading a SavedModel into a session as TensorFlow's C++ loader does.

TensorFlow Serving uses that loader. Python's loader also reads parts that serving does not need,
such as collections, and rejects models because of them.
Sources: reader.cc and loader.cc in tensorflow/cc/saved_model.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from errno import ENOENT
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.errors import ServingError, failed_precondition, invalid_argument, not_found

INIT_OP = "__saved_model_init_op"
MAIN_OPS = ("saved_model_main_op", "legacy_init_op")
ASSETS = "saved_model_assets"
# Operations whose values are stored in the checkpoint.
VARIABLES = ("VarHandleOp", "Variable", "VariableV2")
MUTABLE_TABLES = ("MutableHashTable", "MutableDenseHashTable")


def load(session: Any, path: Path, tags: Collection[str]) -> Any:
    """Load a SavedModel into a session.

    Args:
        session: a `tf.compat.v1.Session` whose empty graph is the default graph.
        path: the SavedModel's directory.
        tags: the tags of the graph to load.

    Returns:
        The graph's `MetaGraphDef`.

    Raises:
        ServingError: the SavedModel is missing or cannot be loaded.
    """
    meta_graph = _find_meta_graph(_read(path), tags)
    try:
        _import_graph(meta_graph.graph_def)
        assets = _assets(meta_graph, path)
        _restore_variables(session, meta_graph, path, assets)
        init_op = _init_op(meta_graph, path)
        if init_op:
            session.run(init_op, assets)
    except tf.errors.OpError as error:
        if error.error_code == tf.errors.UNKNOWN and error.message.endswith(os.strerror(ENOENT)):
            # the checkpoint reader reports missing files as UNKNOWN
            raise not_found(error.message) from error
        raise ServingError.from_number(error.error_code, error.message) from error
    except (KeyError, TypeError, ValueError) as error:  # errors in the graph
        raise invalid_argument(f"cannot load {path}: {error}") from error
    return meta_graph


def check_regular(*files: Path) -> None:
    """Reject FIFOs, sockets and devices, which can block a reader forever.

    Raises:
        ServingError: FAILED_PRECONDITION, one of the files is not a regular file.
    """
    for file in files:
        try:
            mode = file.stat().st_mode
        except OSError:
            continue  # the code that reads the file reports the error
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise failed_precondition(f"cannot load {file}: expected a regular file")


def _read(path: Path) -> Any:
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    check_regular(binary, text, *(path / "variables").glob("*"))
    try:
        if binary.exists():
            return _parse(binary, "binary", saved_model_pb2.SavedModel.FromString)
        if text.exists():
            return _parse(
                text, "text", lambda data: text_format.Parse(data, saved_model_pb2.SavedModel())
            )
    except OSError as error:
        raise not_found(f"cannot read {path}: {error.strerror}") from error
    raise not_found(
        "Specified file path does not appear to contain a SavedModel bundle "
        f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
    )


def _parse(file: Path, kind: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(file.read_bytes())
    except (OSError, DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ServingError.from_number(
            tf.errors.DATA_LOSS, f"Can't parse {file} as {kind} proto"
        ) from error


def _find_meta_graph(saved_model: Any, tags: Collection[str]) -> Any:
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. To "
        "inspect available tag-sets in the SavedModel, please use the SavedModel CLI: "
        "`saved_model_cli`"
    )


def _import_graph(graph_def: Any) -> None:
    for node in graph_def.node:
        # `_class` colocates nodes. There is only one device, and the attribute may name pruned
        # nodes.
        node.attr.pop("_class", None)
    tf.import_graph_def(graph_def, name="")


def _assets(meta_graph: Any, path: Path) -> dict[str, str]:
    """Return the path of each asset, by the name of the tensor to feed with it."""
    files = list(meta_graph.asset_file_def)
    if not files and ASSETS in meta_graph.collection_def:
        for message in meta_graph.collection_def[ASSETS].any_list.value:
            files.append(meta_graph_pb2.AssetFileDef())
            message.Unpack(files[-1])
    paths = {file.tensor_info.name: path / "assets" / file.filename for file in files}
    check_regular(*paths.values())
    return {tensor: str(file) for tensor, file in paths.items()}


def _restore_variables(
    session: Any, meta_graph: Any, path: Path, assets: Mapping[str, str]
) -> None:
    index, saver = path / "variables" / "variables.index", meta_graph.saver_def
    if index.exists():
        variables = {saver.filename_tensor_name: str(path / "variables" / "variables")}
        session.run(saver.restore_op_name, {**variables, **assets})
    elif saver.restore_op_name and any(_is_saved(node) for node in meta_graph.graph_def.node):
        # TensorFlow Serving makes such a version AVAILABLE, but all its requests fail.
        raise failed_precondition(
            f"cannot load {path}: expected variables, but {index} does not exist"
        )


def _is_saved(node: Any) -> bool:
    return node.op in VARIABLES or node.op.startswith(MUTABLE_TABLES)


def _init_op(meta_graph: Any, path: Path) -> str:
    """Return the operation to run after the variables are restored; empty if there is none."""
    if INIT_OP in meta_graph.signature_def:
        outputs = meta_graph.signature_def[INIT_OP].outputs
        if INIT_OP not in outputs:
            raise failed_precondition(f"Could not find output {INIT_OP}")
        return str(outputs[INIT_OP].name)
    for key in MAIN_OPS:
        if key in meta_graph.collection_def:
            names = meta_graph.collection_def[key].node_list.value
            if len(names) != 1:
                raise failed_precondition(f"Expected exactly one main op in : {path}")
            return str(names[0])
    return ""
