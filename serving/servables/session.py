"""The session interface, and the session that runs a TensorFlow graph."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework import ops

from serving import errors
from serving.errors import ServingError, invalid_argument, unimplemented
from serving.servables import tensors
from serving.servables.memory import return_freed_memory
from serving.servables.tensors import (
    DTYPES,
    MAX_ARRAY_RANK,
    MAX_STRING_ARRAY_RANK,
    Array,
    ProtoTensor,
    Tensor,
)

Cancelled = Callable[[], bool]

# Callers choose the outputs, and each choice has a callable; the least recently used are evicted.
MAX_CALLABLES = 64
UNKNOWN_RANK = -1
_ndim = operator.attrgetter("ndim")
# Prefix of TensorFlow's message for a result with too many dimensions.
RANK_ERROR_PREFIX = "Cannot convert tensor with"
# Types that tf.io.serialize_tensor accepts, and substitutes of the same size for the others.
SERIALIZABLE = frozenset({*map(tf.as_dtype, DTYPES), tf.resource, tf.variant})
QUANTIZED = {
    tf.qint8: tf.int8,
    tf.quint8: tf.uint8,
    tf.qint16: tf.int16,
    tf.quint16: tf.uint16,
    tf.qint32: tf.int32,
}


def never() -> bool:
    """Return False; the default for callers that cannot cancel."""
    return False


class Session(Protocol):
    """Computes tensors from tensors; thread-safe."""

    def run(
        self,
        feeds: Sequence[str],
        fetches: Sequence[str],
        inputs: Sequence[Tensor],
        cancelled: Cancelled = never,
    ) -> list[Tensor]:
        """Compute the tensors named `fetches`.

        Args:
            feeds: names of the tensors to feed.
            fetches: names of the tensors to compute.
            inputs: a value for each of `feeds`, in its dtype; strings as arrays of bytes.
            cancelled: returns whether the caller has stopped waiting.

        Raises:
            ServingError: the graph rejected the inputs or failed, with TensorFlow's own message;
                CANCELLED, the caller stopped waiting before the run.
        """

    def close(self) -> None:
        """Free the session; no call may be in progress."""


class _ArrayRankError(Exception):
    """A result has more dimensions than numpy's arrays."""


class GraphSession:
    """Runs a TensorFlow session, as TensorFlow Serving does.

    Running a session's callable takes a tenth of the time of calling the signature as a function,
    and closing the session frees everything that the version held.
    """

    def __init__(self, session: Any, *, use_inter_op_pool: bool = False) -> None:
        """Take ownership of a `tf.compat.v1.Session`; load its graph before calling `run`."""
        self._session = session
        self._run_options = config_pb2.RunOptions(
            inter_op_thread_pool=0 if use_inter_op_pool else -1
        )
        self._callable = functools.lru_cache(MAX_CALLABLES)(self._make_callable)
        self._flat_callable = functools.lru_cache(MAX_CALLABLES)(self._make_flat_callable)
        self._proto_callable = functools.lru_cache(MAX_CALLABLES)(self._make_proto_callable)
        # Operations cannot be removed from a graph, so they are added once per tensor.
        self._flat_names = functools.cache(self._add_flatten)
        self._parsed_names = functools.cache(self._add_parse)
        self._serialized_name = functools.cache(self._add_serialize)
        self._graph_lock = threading.Lock()

    def run(
        self,
        feeds: Sequence[str],
        fetches: Sequence[str],
        inputs: Sequence[Tensor],
        cancelled: Cancelled = never,
    ) -> list[Tensor]:
        """See `Session`."""
        if cancelled():
            raise errors.cancelled()
        names = tuple(feeds), tuple(fetches)
        try:
            if not any(isinstance(value, ProtoTensor) for value in inputs):
                compute, ranks = self._callable(*names)
                if ranks is not None and tuple(map(_ndim, inputs)) != ranks:
                    compute = self._flat_callable(*names)
                if compute is not None:
                    # TensorFlow returns a scalar string as bytes instead of an array.
                    return [
                        np.array(value, object) if isinstance(value, bytes) else value
                        for value in compute(*inputs)
                    ]
        except _ArrayRankError:
            pass
        except Exception as error:
            if not _has_too_many_dimensions(error):
                raise _convert_error(error) from error
        try:
            return self._run_protos(names, inputs)
        except Exception as error:
            raise _convert_error(error) from error

    def dtype(self, tensor: str) -> Any:
        """Return a tensor's dtype, or that of its value if it is a reference; None if unknown."""
        try:
            return self._tensor(tensor).dtype.base_dtype
        except (KeyError, ValueError):
            return None

    def close(self) -> None:
        """See `Session`."""
        for cached in (self._callable, self._flat_callable, self._proto_callable):
            cached.cache_clear()
        graph = self._session.graph
        self._session.close()
        del self._session
        # A graph and its operations refer to one another; the garbage collector would free them
        # only many versions later.
        ops.dismantle_graph(graph)
        del graph
        return_freed_memory()

    def _run_protos(
        self, names: tuple[tuple[str, ...], tuple[str, ...]], inputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """Compute with serialized TensorProtos: slower, but works for every type and rank."""
        dtypes = [self.dtype(fetch) for fetch in names[1]]
        for dtype in dtypes:
            # An operation without a kernel for its dtype would break the graph for all later calls.
            if dtype is not None and dtype not in SERIALIZABLE and dtype not in QUANTIZED:
                raise unimplemented(f"tensors of {dtype.name} cannot be sent")
        # An array with numpy's bytes dtype would lose trailing zeros.
        arrays = [np.array(_serialize(value), object) for value in inputs]
        outputs: list[Tensor] = []
        for data, dtype in zip(self._proto_callable(*names)(*arrays), dtypes, strict=True):
            proto = tensor_pb2.TensorProto.FromString(data)
            proto.dtype = dtype.as_datatype_enum  # quantized types were bitcast
            outputs.append(ProtoTensor(proto))
        return outputs

    def _make_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> tuple[Callable[..., Sequence[Any]] | None, tuple[int, ...] | None]:
        """Return a function of arrays and the ranks that its arrays must have; None: any ranks.

        The function is None if arrays cannot hold the dtype of an output.

        TensorFlow crashes the process when it converts a string tensor with very many dimensions.
        That cannot happen if the graph knows the rank of each string tensor and is fed the ranks
        it expects.
        """
        dtypes = [self.dtype(fetch) for fetch in fetches]
        if any(d is not None and d.as_datatype_enum not in DTYPES for d in dtypes):
            return None, None
        options = config_pb2.CallableOptions(
            feed=feeds, fetch=fetches, run_options=self._run_options
        )
        compute = self._as_callable(options)
        ranks = [self._rank(f) for f, d in zip(fetches, dtypes, strict=True) if d is tf.string]
        if not ranks:
            return compute, None
        if all(0 <= rank <= MAX_STRING_ARRAY_RANK for rank in ranks):
            return compute, tuple(map(self._rank, feeds))
        return compute, (UNKNOWN_RANK,)  # matches no arrays

    def _make_flat_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> Callable[..., Sequence[Any]]:
        """Return a function of arrays that fetches string tensors as vectors and reshapes them."""
        are_strings = [self.dtype(fetch) is tf.string for fetch in fetches]
        options = config_pb2.CallableOptions(feed=feeds, run_options=self._run_options)
        with self._graph_lock, self._session.graph.as_default():
            for fetch, is_string in zip(fetches, are_strings, strict=True):
                options.fetch.extend(self._flat_names(fetch) if is_string else [fetch])
        compute_flat = self._as_callable(options)

        def compute(*arrays: Array) -> list[Array]:
            values = iter(compute_flat(*arrays))
            return [
                _reshape(next(values), next(values)) if is_string else next(values)
                for is_string in are_strings
            ]

        return compute

    def _make_proto_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> Callable[..., Sequence[bytes]]:
        """Return a function of serialized TensorProtos that computes serialized TensorProtos."""
        options = config_pb2.CallableOptions(run_options=self._run_options)
        with self._graph_lock, self._session.graph.as_default():
            for feed in feeds:
                serialized, parsed = self._parsed_names(feed)
                options.feed.append(serialized)
                options.tensor_connection.add(from_tensor=parsed, to_tensor=feed)
            options.fetch.extend(map(self._serialized_name, fetches))
        return self._as_callable(options)

    def _add_flatten(self, fetch: str) -> tuple[str, str]:
        """Add operations that flatten a tensor and compute its shape.

        Returns:
            The names of both results.
        """
        tensor = self._tensor(fetch)
        return tf.reshape(tensor, [-1]).name, tf.shape(tensor).name

    def _add_parse(self, feed: str) -> tuple[str, str]:
        """Add a placeholder for a serialized TensorProto and an operation that parses it.

        Returns:
            The names of both results.
        """
        serialized = tf.compat.v1.placeholder(tf.string, [])
        return serialized.name, tf.io.parse_tensor(serialized, self.dtype(feed)).name

    def _add_serialize(self, fetch: str) -> str:
        """Add an operation that serializes a tensor to a TensorProto; return its result's name."""
        value = tf.identity(self._tensor(fetch))
        if value.dtype in QUANTIZED:
            value = tf.bitcast(value, QUANTIZED[value.dtype])
        return str(tf.io.serialize_tensor(value).name)

    def _as_callable(self, options: Any) -> Callable[..., Sequence[Any]]:
        # The public Session.make_callable checks shapes, which TensorFlow Serving does not.
        compute: Callable[..., Sequence[Any]] = self._session._make_callable_from_options(options)
        return compute

    def _tensor(self, name: str) -> Any:
        return self._session.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")

    def _rank(self, tensor: str) -> int:
        rank = self._tensor(tensor).shape.rank
        return UNKNOWN_RANK if rank is None else int(rank)


def _reshape(values: Array, shape: Array) -> Array:
    if len(shape) > MAX_ARRAY_RANK:
        raise _ArrayRankError
    return values.reshape(shape)


def _serialize(tensor: Tensor) -> bytes:
    proto = tensor_pb2.TensorProto()
    tensors.encode(tensor, proto)
    return bytes(proto.SerializeToString())


def _has_too_many_dimensions(error: Exception) -> bool:
    return isinstance(error, tf.errors.OpError) and error.message.startswith(RANK_ERROR_PREFIX)


def _convert_error(error: Exception) -> Exception:
    """Convert an error of TensorFlow or numpy to a ServingError; return others unchanged."""
    if isinstance(error, tf.errors.OpError):
        return ServingError.from_number(error.error_code, error.message)
    if isinstance(error, UnicodeDecodeError):  # TensorFlow's message has bytes that are not UTF-8
        return invalid_argument(error.object.decode("utf-8", "replace"))
    if isinstance(error, (TypeError, ValueError)):  # numpy values that TensorFlow cannot convert
        return invalid_argument(str(error))
    return error
