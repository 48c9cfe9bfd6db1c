"""SavedModels of all kinds are served: dtypes, shapes, tables and assets, TensorFlow 1 and 2."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.servables import session, tensors
from tests.contract.recordings import CORPUS
from tests.contract.tf1_models import PREDICT, Signatures, counter, export, signature
from tests.serving.conftest import Serve, model_flags
from tests.support import forked
from tests.support.caller import Caller, model_config, models_config, raises_rpc_error

v1 = tf.compat.v1
ALL = "model_version_policy { all {} }"
CONTENT = "--enable_serialization_as_tensor_content"
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
# The typed field of each dtype, and the conversion of values to it.
FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("int8", "uint8", "int16", "uint16", "int32"), ("int_val", np.int64)),
    "int64": ("int64_val", np.int64),
    "uint32": ("uint32_val", np.uint32),
    "uint64": ("uint64_val", np.uint64),
    "float32": ("float_val", np.float32),
    "float64": ("double_val", np.float64),
    "float16": ("half_val", lambda values: values.view(np.uint16)),
    "bfloat16": ("half_val", lambda values: values.view(np.uint16)),
    "bool": ("bool_val", np.bool_),
    "complex64": ("scomplex_val", lambda values: values.view(np.float32)),
    "complex128": ("dcomplex_val", lambda values: values.view(np.float64)),
    "string": ("string_val", np.asarray),
}


def extremes(dtype: str) -> Any:
    """Return four values of a dtype that conversions easily damage."""
    if dtype == "string":
        return np.array([b"", b"\x00\xff", "Zürich".encode(), b"x" * 300], object)
    if dtype == "bool":
        return np.array([True, False, False, True])
    numpy_dtype = tf.as_dtype(dtype).as_numpy_dtype
    if dtype in INTEGERS:
        limits = np.iinfo(numpy_dtype)
        return np.array([limits.min, limits.max, 0, 1], numpy_dtype)
    if dtype.startswith("complex"):
        return np.array([1 - 2j, 0.5j, complex(math.inf, math.nan), -3], numpy_dtype)
    largest = 3.3895e38 if dtype == "bfloat16" else np.finfo(numpy_dtype).max
    return np.array([-1.5, largest, math.nan, -math.inf], numpy_dtype)


def typed_proto(dtype: str, values: Any) -> Any:
    """Return a TensorProto with the values in a typed field."""
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum)
    proto.tensor_shape.SetInParent()
    for length in values.shape:
        proto.tensor_shape.dim.add(size=length)
    field, convert = FIELDS[dtype]
    flat = np.ascontiguousarray(values.reshape(-1))
    getattr(proto, field).extend(convert(flat).tolist())
    return proto


def content_proto(dtype: str, values: Any) -> Any:
    """Return a TensorProto with the values in `tensor_content`."""
    proto = typed_proto(dtype, values)
    proto.ClearField(FIELDS[dtype][0])
    if dtype == "string":
        flat = values.reshape(-1).tolist()
        proto.tensor_content = b"".join(map(_varint, map(len, flat))) + b"".join(flat)
    else:
        proto.tensor_content = values.tobytes()
    return proto


def _varint(number: int) -> bytes:
    encoded = []
    while number > 127:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes([*encoded, number])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models of many kinds."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("shapes", "mixed"):
        (folder / name).symlink_to(CORPUS / "models" / name)
    export(folder / "counter" / "1", counter)
    vocabulary = folder / "cities.txt"
    vocabulary.write_text("Bern\nZürich\nGenf\n", encoding="utf-8")
    export(folder / "cities" / "1", lambda: _cities(vocabulary))
    export(folder / "sparse" / "1", _sparse)
    vocabulary.unlink()  # the version has its own copy
    _export_tables(folder / "tables" / "1")
    tf.saved_model.save(tf.Module(), str(folder / "empty" / "1"))
    return folder


def _cities(vocabulary: Path) -> Signatures:
    """Look up the index of a city in a TensorFlow 1 table whose vocabulary is an asset."""
    names = v1.placeholder(tf.string, [None], "names")
    # The collection makes the file part of the SavedModel.
    file = tf.constant(str(vocabulary))
    v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, file)
    table = v1.lookup.StaticVocabularyTable(
        v1.lookup.TextFileInitializer(
            file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        num_oov_buckets=1,
    )  # fmt: skip
    return {"serving_default": signature({"name": names}, {"index": table.lookup(names)}, PREDICT)}


def _sparse() -> Signatures:
    """Build a signature with a sparse input, which no request can carry, and one without."""
    x = v1.placeholder(tf.float32, [None], "x")
    sparse = v1.sparse_placeholder(tf.float32, name="sparse")
    dense = signature({"x": x}, {"y": x * 2.0}, PREDICT)
    uncallable = signature({}, {"y": v1.sparse.reduce_sum(sparse)}, PREDICT)
    info = uncallable.inputs["sparse"]
    info.dtype = tf.float32.as_datatype_enum
    info.coo_sparse.values_tensor_name = sparse.values.name
    info.coo_sparse.indices_tensor_name = sparse.indices.name
    info.coo_sparse.dense_shape_tensor_name = sparse.dense_shape.name
    return {"serving_default": dense, "uncallable": uncallable}


class _Tables(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2], value_dtype=tf.int64)
        self.constant = tf.lookup.StaticHashTable(pairs, -1)
        self.mutable = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)
        self.mutable.insert(["a", "b"], [0.5, 1.5])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, "key")])
    def serve(self, key: Any) -> dict[str, Any]:
        return {"constant": self.constant.lookup(key), "mutable": self.mutable.lookup(key)}


def _export_tables(path: Path) -> None:
    module = _Tables()
    tf.saved_model.save(module, str(path), signatures=module.serve)


@pytest.fixture(scope="module", params=["typed", "content"])
def output_encoding(request: pytest.FixtureRequest) -> str:
    """Whether the server returns typed fields or `tensor_content`."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(
    output_encoding: str, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Caller]:
    """A caller of a server of all these models."""
    folder = tmp_path_factory.mktemp("server")
    names = ("shapes", "mixed", "counter", "cities", "sparse", "tables", "empty")
    config = folder / "models.config"
    config.write_text(models_config(*(model_config(models / name) for name in names)))
    flags = [f"--model_config_file={config}", *([CONTENT] if output_encoding == "content" else [])]
    running = forked.start_model_server(folder / "log", *flags)
    with Caller(running.address) as caller:
        yield caller
    assert running.stop() == 0


def identity(server: Caller, dtype: str, proto: Any) -> Any:
    """Send a TensorProto through an identity signature, and return the response's."""
    return server.predict("shapes", {"x": proto}, signature=f"identity_{dtype}").outputs["y"]


@pytest.mark.parametrize("make_proto", [typed_proto, content_proto])
@pytest.mark.parametrize("dtype", FIELDS)
def test_every_dtype_round_trips(
    server: Caller, dtype: str, make_proto: Callable[[str, Any], Any]
) -> None:
    values = extremes(dtype)
    for shape in ((4,), (2, 2), (4, 1, 1)):
        output = identity(server, dtype, make_proto(dtype, values.reshape(shape)))
        assert output.dtype == tf.as_dtype(dtype).as_datatype_enum
        received = tf.make_ndarray(output)
        assert received.shape == shape
        if dtype == "string":
            assert received.reshape(-1).tolist() == values.tolist()
        else:
            assert received.tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", FIELDS)
def test_flag_selects_tensor_content(server: Caller, output_encoding: str, dtype: str) -> None:
    output = identity(server, dtype, typed_proto(dtype, extremes(dtype)))
    is_content = output_encoding == "content" and dtype != "string"
    assert bool(output.tensor_content) is is_content
    assert bool(getattr(output, FIELDS[dtype][0])) is not is_content


@pytest.mark.parametrize("make_proto", [typed_proto, content_proto])
@pytest.mark.parametrize("dtype", FIELDS)
def test_scalars_and_empty_tensors_round_trip(
    server: Caller, dtype: str, make_proto: Callable[[str, Any], Any]
) -> None:
    scalar = extremes(dtype)[1].reshape(()) if dtype != "string" else np.array(b"\x00\xff", object)
    assert tf.make_ndarray(identity(server, dtype, make_proto(dtype, scalar))).tolist() == (
        scalar.tolist()
    )
    empty = extremes(dtype)[:0].reshape(0, 3)
    output = identity(server, dtype, make_proto(dtype, empty))
    assert [dim.size for dim in output.tensor_shape.dim] == [0, 3]


@pytest.mark.parametrize("rank", [1, 8, 32, 33, 64, 65, 254])
@pytest.mark.parametrize("dtype", ["float32", "int8", "string"])
def test_tensors_of_up_to_254_dimensions_round_trip(server: Caller, dtype: str, rank: int) -> None:
    proto = typed_proto(dtype, extremes(dtype)[:1])
    proto.tensor_shape.Clear()
    for _ in range(rank):
        proto.tensor_shape.dim.add(size=1)
    output = identity(server, dtype, proto)
    assert [dim.size for dim in output.tensor_shape.dim] == [1] * rank
    output.tensor_shape.Clear()
    assert tf.make_ndarray(output).tolist() == extremes(dtype)[:1].reshape(()).tolist()


def test_tensor_of_255_dimensions_is_rejected(server: Caller) -> None:
    proto = typed_proto("float32", np.ones(1, np.float32))
    for _ in range(254):
        proto.tensor_shape.dim.add(size=1)
    with raises_rpc_error("INVALID_ARGUMENT", "tensor parsing error: x"):
        identity(server, "float32", proto)


def test_returns_outputs_of_different_dtypes(server: Caller) -> None:
    inputs = {
        "age": tf.constant([30.0, 40.0]),
        "income": tf.constant([1000.0, 2000.0], tf.float64),
        "city": ["Bern", "Zürich"],
        "member": [True, False],
        "visits": tf.constant([3, 40], tf.int64),
    }
    outputs = server.predict("mixed", inputs).outputs
    values = {name: tf.make_ndarray(proto).tolist() for name, proto in outputs.items()}
    assert values == {
        "score": [91.0, 122.0],
        "score32": [91.0, 122.0],
        "summary": [b"Bern/3", "Zürich/40".encode()],
        "greeting_bytes": [b"hello Bern", "hello Zürich".encode()],
        "eligible": [False, False],
        "visits_next": [4, 41],
        "bucket": [0, 4],
        "pair": [[30.0, 1000.0], [40.0, 2000.0]],
    }


def test_tensorflow_1_model_restores_its_table_and_asset(server: Caller) -> None:
    response = server.predict("cities", {"name": ["Genf", "Zürich", "Paris"]})
    assert tf.make_ndarray(response.outputs["index"]).tolist() == [2, 1, 3]


def test_tensorflow_1_model_keeps_state_between_calls(server: Caller) -> None:
    def call(name: str, **inputs: Any) -> float:
        response = server.predict("counter", inputs, signature=name)
        return float(tf.make_ndarray(response.outputs["output"]))

    call("reset_counter")
    assert call("incr_counter") == 1
    assert call("incr_counter_by", delta=2.5) == 3.5
    assert call("get_counter") == 3.5


def test_constant_and_mutable_tables_are_restored(server: Caller) -> None:
    response = server.predict("tables", {"key": ["b", "a", "c"]})
    assert tf.make_ndarray(response.outputs["constant"]).tolist() == [2, 1, -1]
    assert tf.make_ndarray(response.outputs["mutable"]).tolist() == [1.5, 0.5, -1.0]


def test_uncallable_signature_does_not_affect_others(server: Caller) -> None:
    with raises_rpc_error("INVALID_ARGUMENT"):
        server.predict("sparse", {"sparse": [1.0]}, signature="uncallable")
    assert server.predict_x(model="sparse") == ([2.0], 1)


def test_model_without_signatures_is_available(server: Caller) -> None:
    assert server.is_available(1, "empty")
    with raises_rpc_error(
        "FAILED_PRECONDITION", 'Serving signature key "serving_default" not found.'
    ):
        server.predict("empty", {})


TEN, ONE = tf.constant(10.0), tf.constant(1.0)


class _Scaled(tf.Module):
    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None], tf.float32, "x"),
            tf.TensorSpec([], tf.float32, "factor"),
            tf.TensorSpec([], tf.float32, "offset"),
        ],
    )
    def serve(self, x: Any, factor: Any = TEN, offset: Any = ONE) -> dict[str, Any]:
        return {"y": factor * x + offset}


def test_inputs_with_defaults_are_optional(base_path: Path, serve: Serve) -> None:
    module = _Scaled()
    tf.saved_model.save(module, str(base_path / "1"), signatures=module.serve)
    server = serve(*model_flags(base_path))

    def predict(**inputs: float) -> Any:
        constants = {name: tf.constant(value, tf.float32) for name, value in inputs.items()}
        response = server.predict("m", {"x": tf.constant([1.0, 2.0]), **constants})
        return tf.make_ndarray(response.outputs["y"]).tolist()

    assert predict() == [11.0, 21.0]
    assert predict(factor=2.0) == [3.0, 5.0]
    assert predict(offset=0.0) == [10.0, 20.0]
    assert predict(factor=2.0, offset=0.0) == [2.0, 4.0]
    with raises_rpc_error(
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {factor}, or default input "
        "alias set: factor,offset",
    ):
        server.predict("m", {"factor": 1.0})
    with raises_rpc_error(
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: x, request input: nosuch,x",
    ):
        predict(nosuch=1.0)
    with raises_rpc_error("INVALID_ARGUMENT", "input size does not match signature: 4!=3 "):
        predict(factor=1.0, offset=1.0, nosuch=1.0)


class _Shapes(tf.Module):
    """Reshapes numbers to the requested shape, and returns them as strings."""

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None], tf.float32, "x"),
            tf.TensorSpec([None], tf.int32, "shape"),
        ],
    )
    def serve(self, x: Any, shape: Any) -> dict[str, Any]:
        numbers = tf.reshape(x, shape)
        return {"numbers": numbers, "texts": tf.strings.as_string(numbers, precision=1)}


@pytest.mark.parametrize("batching", [False, True])
def test_returns_outputs_of_any_rank(base_path: Path, serve: Serve, batching: bool) -> None:
    module = _Shapes()
    tf.saved_model.save(module, str(base_path / "1"), signatures=module.serve)
    server = serve(*model_flags(base_path), *(["--enable_batching"] if batching else []))
    for rank in (1, 2, 32, 33, 64, 65, 200):
        # With batching, inputs and outputs share their first dimension.
        shape = [rank, *[1] * (rank - 1)] if batching else [1] * (rank - 1) + [2]
        x = np.arange(rank if batching else 2, dtype=np.float32)
        inputs = {"x": x, "shape": np.array(shape, np.int32)}
        outputs = server.predict("m", inputs).outputs
        for name in ("numbers", "texts"):
            assert [dim.size for dim in outputs[name].tensor_shape.dim] == shape
        texts = tf.io.parse_tensor(outputs["texts"].SerializeToString(), tf.string)
        flat = tf.reshape(texts, [-1]).numpy().tolist()
        assert flat == [f"{number:.1f}".encode() for number in x]


@pytest.mark.parametrize("rank", [33, 65])
def test_high_rank_strings_do_not_crash_the_server(
    base_path: Path, serve: Serve, rank: int
) -> None:
    def build() -> Signatures:
        x = v1.placeholder(tf.float32, [None], "x")
        constant = tf.fill([1] * rank, "1.000000")
        return {
            "serving_default": signature({"x": x}, {"y": tf.as_string(x)}, PREDICT),
            "constant": signature({}, {"y": constant}, PREDICT),
        }

    export(base_path / "1", build)
    server = serve(*model_flags(base_path))
    proto = typed_proto("float32", np.ones(1, np.float32))
    for _ in range(rank - 1):
        proto.tensor_shape.dim.add(size=1)
    for response in (
        server.predict("m", {"x": proto}),
        server.predict("m", {}, signature="constant"),
    ):
        assert len(response.outputs["y"].tensor_shape.dim) == rank
        assert response.outputs["y"].string_val == [b"1.000000"]
    assert server.predict_x() == ([b"1.000000"], 1)


def test_output_selections_grow_neither_the_graph_nor_the_number_of_callables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "MAX_CALLABLES", 1)
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, None)
        outputs = [tf.as_string(x).name, tf.as_string(-x).name, tf.negative(x).name]
    v1_session = v1.Session(graph=graph)
    make_callable, callables = v1_session._make_callable_from_options, weakref.WeakSet[Any]()

    def make_tracked(options: Any) -> Any:
        compute = make_callable(options)
        callables.add(compute)
        return compute

    monkeypatch.setattr(v1_session, "_make_callable_from_options", make_tracked)
    graph_session = session.GraphSession(v1_session)
    selections = [outputs[:1], outputs[1:], outputs]
    sizes = []
    for _ in range(3):
        for rank in (1, 40):  # flat and serialized strings
            proto = tf.make_tensor_proto(np.ones(1, np.float32))
            proto.tensor_shape.CopyFrom(tf.TensorShape([1] * rank).as_proto())
            for selection in selections:
                graph_session.run([x.name], selection, [tensors.decode(proto)])
        sizes.append(len(graph.get_operations()))
    assert len(callables) <= 3  # one per cache: for arrays, flat strings and protos
    graph_session.close()
    assert sizes[0] == sizes[1] == sizes[2]


def test_error_message_may_quote_non_utf8_bytes(server: Caller) -> None:
    for rank in (1, 40):
        proto = typed_proto("string", np.array([b"\xff\xfe"], object))
        for _ in range(rank - 1):
            proto.tensor_shape.dim.add(size=1)
        with raises_rpc_error(
            "INVALID_ARGUMENT", "StringToNumberOp could not correctly convert string"
        ):
            server.predict("shapes", {"s": proto}, signature="to_number")


def test_quantized_tensors_round_trip(base_path: Path, serve: Serve) -> None:
    def build() -> Signatures:
        x = v1.placeholder(tf.qint8, [None], "x")
        return {"serving_default": signature({"x": x}, {"y": tf.identity(x)}, PREDICT)}

    export(base_path / "1", build)
    server = serve(*model_flags(base_path))
    proto = tensor_pb2.TensorProto(dtype=tf.qint8.as_datatype_enum, int_val=[1, -2])
    proto.tensor_shape.dim.add(size=2)
    output = server.predict("m", {"x": proto}).outputs["y"]
    assert (output.dtype, output.tensor_content) == (tf.qint8.as_datatype_enum, b"\x01\xfe")
    with raises_rpc_error("INVALID_ARGUMENT", "Expects arg[0] to be qint8 but int8 is provided"):
        server.predict("m", {"x": tf.constant([1], tf.int8)})
