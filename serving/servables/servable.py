"""One loaded version of a model."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2

from serving.errors import ServingError, invalid_argument, unimplemented
from serving.servables import saved_model
from serving.servables.tensors import (
    DTYPES,
    MAX_ARRAY_RANK,
    MAX_STRING_ARRAY_RANK,
    Array,
    NoArrayError,
)

DEFAULT_SIGNATURE = "serving_default"
SERVE_TAG = "serve"
# Of the callables with an output filter; without a bound, clients could make one for each subset.
CALLABLES_KEPT = 64
UNKNOWN_RANK = -1
_ndim = operator.attrgetter("ndim")
# How TensorFlow says that a result is of too many dimensions, or of a type that arrays do not have.
NO_ARRAY = ("Cannot convert tensor with", "Tensorflow type")
# What tf.io.serialize_tensor takes, and what there is of the same size for what it does not take.
SERIALIZED = frozenset({*map(tf.as_dtype, DTYPES), tf.resource, tf.variant})
QUANTIZED = {
    tf.qint8: tf.int8,
    tf.quint8: tf.uint8,
    tf.qint16: tf.int16,
    tf.quint16: tf.uint16,
    tf.qint32: tf.int32,
}


@dataclass(frozen=True)
class Signature:
    """A SignatureDef, taken apart once so that requests need not do so.

    Attributes:
        definition: the SignatureDef.
        inputs: names of its inputs in alphabetical order, and of each the tensor it feeds.
        outputs: names of its outputs in alphabetical order, and of each the tensor it fetches.
        dtypes: of each input the dtype that the graph takes, whatever the SignatureDef says; None
            if the graph has no such tensor.
    """

    definition: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    dtypes: Mapping[str, Any]

    @classmethod
    def of(cls, definition: Any, graph: Any) -> Signature:
        """Take a SignatureDef of a graph apart."""
        inputs, outputs = _tensors(definition.inputs), _tensors(definition.outputs)
        dtypes = {name: _dtype(graph, tensor) for name, tensor in inputs.items()}
        return cls(definition, inputs, outputs, dtypes)


def _tensors(infos: Mapping[str, Any]) -> dict[str, str]:
    return {name: info.name for name, info in sorted(infos.items())}


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded.

    Attributes:
        tags: which of a SavedModel's graphs to load.
        session_config: a `tensorflow.ConfigProto`: threads and the like.
        use_inter_op_pool: run independent operations of a request on TensorFlow's thread pool. By
            default the thread that has the request runs them one by one: to hand over a small
            graph costs more than to run it, and kernels spread large operations over all cores
            anyway.
    """

    tags: tuple[str, ...] = (SERVE_TAG,)
    session_config: Any = field(default_factory=config_pb2.ConfigProto)
    use_inter_op_pool: bool = False


class Servable:
    """A SavedModel in a session of its own, which is how TensorFlow Serving runs it too.

    A session's callable costs a tenth of calling the signature as a function, and closing the
    session gives back everything that the version held.

    Attributes:
        path: the version's directory.
        signatures: by name.
    """

    def __init__(
        self, path: Path, session: Any, definitions: Mapping[str, Any], options: LoadOptions
    ) -> None:
        self.path = path
        self.signatures = {
            name: Signature.of(value, session.graph) for name, value in definitions.items()
        }
        self._session = session
        self._run_options = config_pb2.RunOptions(
            inter_op_thread_pool=0 if options.use_inter_op_pool else -1
        )
        self._callable = functools.lru_cache(CALLABLES_KEPT)(self._make_callable)
        self._flat_callable = functools.lru_cache(CALLABLES_KEPT)(self._make_flat_callable)
        self._parsing_callable = functools.lru_cache(CALLABLES_KEPT)(self._make_parsing_callable)
        self._graph_lock = threading.Lock()

    @classmethod
    def load(cls, path: Path, options: LoadOptions | None = None) -> Servable:
        """Load a SavedModel version directory.

        Raises:
            ServingError: it is not a SavedModel, or cannot be loaded.
        """
        options = options or LoadOptions()
        session = tf.compat.v1.Session(graph=tf.Graph(), config=options.session_config)
        try:
            with session.graph.as_default():
                meta_graph = saved_model.load(session, path, options.tags)
            return cls(path, session, dict(meta_graph.signature_def), options)
        except Exception:
            session.close()
            raise

    def run(
        self, feeds: Sequence[str], fetches: Sequence[str], arrays: Sequence[Array]
    ) -> list[Array]:
        """Compute tensors from tensors; safe to call from several threads at once.

        Args:
            feeds: names of the tensors that are given.
            fetches: names of the tensors to compute.
            arrays: a value for each of `feeds`, in its dtype; strings as arrays of bytes.

        Raises:
            ServingError: the graph rejected the inputs or failed, with TensorFlow's own text.
            NoArrayError: a result has more dimensions than an array has.
        """
        names = tuple(feeds), tuple(fetches)
        try:
            compute, ranks = self._callable(*names)
            if ranks and tuple(map(_ndim, arrays)) != ranks:
                compute = self._flat_callable(*names)
            values = compute(*arrays)
        except Exception as error:
            raise _for_callers(error) from error
        # A string that is a scalar comes without an array around it.
        return [np.array(v, object) if isinstance(v, bytes) else v for v in values]

    def run_serialized(
        self, feeds: Sequence[str], fetches: Sequence[str], serialized: Sequence[bytes]
    ) -> list[bytes]:
        """Do the same with serialized TensorProtos on both sides.

        It is slower, and takes tensors that numpy has no form for, such as those of 254 dimensions.

        Raises:
            ServingError: as `run`.
        """
        dtypes = [self.dtype(fetch) for fetch in fetches]
        for dtype in dtypes:
            # An operation that there is not would spoil the graph for everybody.
            if dtype is not None and dtype not in SERIALIZED and dtype not in QUANTIZED:
                raise unimplemented(f"tensors of {dtype.name} cannot be sent")
        # As they are, numpy would take their last zeros for padding.
        arrays = [np.array(data, object) for data in serialized]
        try:
            values = self._parsing_callable(tuple(feeds), tuple(fetches))(*arrays)
        except Exception as error:
            raise _for_callers(error) from error
        # To append a serialized message is to merge it: what was cast gets its dtype back.
        return [
            bytes(value) + tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum).SerializeToString()
            for value, dtype in zip(values, dtypes, strict=True)
        ]

    def dtype(self, tensor: str) -> Any:
        """Return the dtype of a tensor, of the value if it is a reference; None: there is none."""
        return _dtype(self._session.graph, tensor)

    def close(self) -> None:
        """Free what the version holds; no call may be under way."""
        self._callable.cache_clear()
        self._flat_callable.cache_clear()
        self._parsing_callable.cache_clear()
        self._session.close()

    def _make_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> tuple[Callable[..., list[Array]], tuple[int, ...]]:
        """Return what computes, and the ranks that arrays must have for it if they must.

        TensorFlow ends the process when it makes an array of strings in very many dimensions. That
        it does not have to is sure if the graph says how many there are, and is fed as it says.
        """
        options = config_pb2.CallableOptions(
            feed=feeds, fetch=fetches, run_options=self._run_options
        )
        compute = self._as_callable(options)
        strings = [self._rank(fetch) for fetch in fetches if self.dtype(fetch) is tf.string]
        if not strings:
            return compute, ()
        ranks = tuple(map(self._rank, feeds))
        is_sure = all(0 <= rank <= MAX_STRING_ARRAY_RANK for rank in strings)
        return compute, ranks if is_sure else (UNKNOWN_RANK,) * len(feeds)

    def _make_flat_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> Callable[..., list[Array]]:
        """Return what computes strings as a vector, and their shape."""
        is_string = [self.dtype(fetch) is tf.string for fetch in fetches]
        options = config_pb2.CallableOptions(feed=feeds, run_options=self._run_options)
        with self._graph_lock, self._session.graph.as_default() as graph:
            for fetch, string in zip(fetches, is_string, strict=True):
                if string:
                    tensor = _tensor(graph, fetch)
                    options.fetch.append(tf.reshape(tensor, [-1]).name)
                    options.fetch.append(tf.shape(tensor).name)
                else:
                    options.fetch.append(fetch)
        compute_flat = self._as_callable(options)

        def compute(*arrays: Array) -> list[Array]:
            values = iter(compute_flat(*arrays))
            return [
                _shaped(next(values), next(values)) if string else next(values)
                for string in is_string
            ]

        return compute

    def _rank(self, tensor: str) -> int:
        rank = _tensor(self._session.graph, tensor).shape.rank
        return UNKNOWN_RANK if rank is None else int(rank)

    def _make_parsing_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> Callable[..., list[Any]]:
        options = config_pb2.CallableOptions(run_options=self._run_options)
        with self._graph_lock, self._session.graph.as_default() as graph:
            for feed in feeds:
                serialized = tf.compat.v1.placeholder(tf.string, [])
                parsed = tf.io.parse_tensor(serialized, self.dtype(feed))
                options.feed.append(serialized.name)
                options.tensor_connection.add(from_tensor=parsed.name, to_tensor=feed)
            for fetch in fetches:
                value = tf.identity(_tensor(graph, fetch))
                if value.dtype in QUANTIZED:
                    value = tf.bitcast(value, QUANTIZED[value.dtype])
                options.fetch.append(tf.io.serialize_tensor(value).name)
        return self._as_callable(options)

    def _as_callable(self, options: Any) -> Callable[..., list[Any]]:
        # The public Session.make_callable would check shapes that TensorFlow Serving does not.
        made: Callable[..., list[Any]] = self._session._make_callable_from_options(options)
        return made


def _shaped(values: Array, shape: Array) -> Array:
    if len(shape) > MAX_ARRAY_RANK:
        raise NoArrayError
    return values.reshape(shape)


def _for_callers(error: Exception) -> Exception:
    """Return what TensorFlow and numpy say of a request as an error for its caller."""
    if isinstance(error, tf.errors.OpError):
        if error.message.startswith(NO_ARRAY):
            return NoArrayError()
        return ServingError.from_number(error.error_code, error.message)
    if isinstance(error, UnicodeDecodeError):  # TensorFlow's text quotes bytes that are none
        return invalid_argument(error.object.decode("utf-8", "replace"))
    if isinstance(error, (TypeError, ValueError)):  # numpy values that TensorFlow cannot take
        return invalid_argument(str(error))
    return error


def _dtype(graph: Any, tensor: str) -> Any:
    """Return a tensor's dtype, of the value if it is a reference; None if there is no such one."""
    try:
        return _tensor(graph, tensor).dtype.base_dtype
    except (KeyError, ValueError):
        return None


def _tensor(graph: Any, tensor: str) -> Any:
    return graph.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0")
