"""One loaded version of a model."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ENOENT
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving.errors import ServingError, failed_precondition, invalid_argument, not_found

Array = npt.NDArray[Any]
DEFAULT_SIGNATURE = "serving_default"
SERVE_TAG = "serve"
# Of the callables with an output filter; without a bound, clients could make one for each subset.
CALLABLES_KEPT = 64


@dataclass(frozen=True)
class Signature:
    """A SignatureDef, taken apart once so that requests need not do so.

    Attributes:
        definition: the SignatureDef.
        inputs: names of its inputs in alphabetical order, and of each the tensor it feeds.
        outputs: names of its outputs in alphabetical order, and of each the tensor it fetches.
    """

    definition: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @classmethod
    def of(cls, definition: Any) -> Signature:
        """Take a SignatureDef apart."""
        return cls(definition, _tensors(definition.inputs), _tensors(definition.outputs))


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
        self.signatures = {name: Signature.of(value) for name, value in definitions.items()}
        self._session = session
        self._run_options = config_pb2.RunOptions(
            inter_op_thread_pool=0 if options.use_inter_op_pool else -1
        )
        self._callable = functools.lru_cache(CALLABLES_KEPT)(self._make_callable)
        self._parsing_callable = functools.lru_cache(CALLABLES_KEPT)(self._make_parsing_callable)
        self._graph_lock = threading.Lock()

    @classmethod
    def load(cls, path: Path, options: LoadOptions | None = None) -> Servable:
        """Load a SavedModel version directory.

        Raises:
            ServingError: it is not a SavedModel, or cannot be loaded.
        """
        options = options or LoadOptions()
        _check_is_saved_model(path)
        session = tf.compat.v1.Session(graph=tf.Graph(), config=options.session_config)
        try:
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(session, list(options.tags), str(path))
        except Exception as error:
            session.close()
            raise _load_error(error, path) from error
        return cls(path, session, dict(meta_graph.signature_def), options)

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
        """
        try:
            values = self._callable(tuple(feeds), tuple(fetches))(*arrays)
        except tf.errors.OpError as error:
            raise ServingError.from_number(error.error_code, error.message) from error
        except UnicodeDecodeError as error:  # TensorFlow's text quotes bytes that are none
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error
        except (TypeError, ValueError) as error:  # numpy values that TensorFlow cannot take
            raise invalid_argument(str(error)) from error
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
        try:
            # As they are, numpy would take their last zeros for padding.
            arrays = [np.array(data, object) for data in serialized]
            values = self._parsing_callable(tuple(feeds), tuple(fetches))(*arrays)
        except tf.errors.OpError as error:
            raise ServingError.from_number(error.error_code, error.message) from error
        return [bytes(value) for value in values]

    def dtype(self, tensor: str) -> Any:
        """Return the dtype of a tensor of the graph, of the value if it is a reference."""
        return self._session.graph.get_tensor_by_name(tensor).dtype.base_dtype

    def close(self) -> None:
        """Free what the version holds; no call may be under way."""
        self._callable.cache_clear()
        self._parsing_callable.cache_clear()
        self._session.close()

    def _make_callable(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> Callable[..., list[Array]]:
        options = config_pb2.CallableOptions(
            feed=feeds, fetch=fetches, run_options=self._run_options
        )
        return self._as_callable(options)

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
                value = tf.identity(graph.get_tensor_by_name(fetch))
                options.fetch.append(tf.io.serialize_tensor(value).name)
        return self._as_callable(options)

    def _as_callable(self, options: Any) -> Callable[..., list[Any]]:
        # The public Session.make_callable would check shapes that TensorFlow Serving does not.
        made: Callable[..., list[Any]] = self._session._make_callable_from_options(options)
        return made


def _check_is_saved_model(path: Path) -> None:
    try:
        found = any((path / f"saved_model.{form}").exists() for form in ("pb", "pbtxt"))
    except OSError as error:
        raise not_found(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise not_found(
            "Specified file path does not appear to contain a SavedModel bundle "
            f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
        )


def _load_error(error: Exception, path: Path) -> ServingError:
    if isinstance(error, tf.errors.OpError):
        if error.error_code == tf.errors.UNKNOWN and error.message.endswith(os.strerror(ENOENT)):
            return not_found(error.message)  # the reader of checkpoints does not say it by a code
        return ServingError.from_number(error.error_code, error.message)
    if isinstance(error, OSError):
        return ServingError.from_number(
            tf.errors.DATA_LOSS, f"Can't parse {path / 'saved_model.pb'} as binary proto"
        )
    if isinstance(error, RuntimeError):  # there is no graph with these tags
        return not_found(str(error))
    # Its variables are missing, for example: the original makes such a version AVAILABLE.
    return failed_precondition(f"cannot load {path}: {error}")
