"""One loaded version of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving.errors import ServingError, invalid_argument, not_found

Array = npt.NDArray[Any]
SERVE_TAG = "serve"
# Of the callables with an output filter; without a bound, clients could make one for each subset.
CALLABLES_KEPT = 64


class Servable:
    """A SavedModel in a session of its own, which is how TensorFlow Serving runs it too.

    A session's callable costs a tenth of calling the signature as a function, and closing the
    session gives back everything that the version held.

    Attributes:
        signatures: SignatureDef by name.
    """

    def __init__(self, session: Any, signatures: Mapping[str, Any]) -> None:
        self.signatures = signatures
        self._session = session
        self._callable = functools.lru_cache(CALLABLES_KEPT)(self._make_callable)

    @classmethod
    def load(cls, path: Path) -> Servable:
        """Load a SavedModel version directory.

        Raises:
            ServingError: it is not a SavedModel, or cannot be loaded.
        """
        try:
            is_saved_model = any(
                (path / f"saved_model.{form}").exists() for form in ("pb", "pbtxt")
            )
        except OSError as error:
            raise not_found(f"cannot read {path}: {error.strerror}") from error
        if not is_saved_model:
            raise not_found(
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
            )
        session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(session, [SERVE_TAG], str(path))
        except Exception as error:
            session.close()
            raise _load_error(error, path) from error
        return cls(session, dict(meta_graph.signature_def))

    def signature(self, name: str) -> Any:
        """Return a SignatureDef.

        Raises:
            ServingError: FAILED_PRECONDITION, there is none of that name.
        """
        try:
            return self.signatures[name]
        except KeyError:
            raise ServingError.from_number(
                tf.errors.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            ) from None

    def run(
        self, signature_name: str, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """Compute a signature's outputs; safe to call from several threads at once.

        Args:
            signature_name: of a signature this version has.
            inputs: an array for each of its inputs, of the input's dtype.
            outputs: names of the outputs to compute.

        Raises:
            ServingError: the graph rejected the inputs or failed, with TensorFlow's own text.
        """
        signature = self.signatures[signature_name]
        try:
            run = self._callable(signature_name, tuple(outputs))
            values = run(*(inputs[name] for name in sorted(signature.inputs)))
        except tf.errors.OpError as error:
            raise ServingError.from_number(error.error_code, error.message) from error
        except (TypeError, ValueError) as error:  # numpy values that TensorFlow cannot take
            raise invalid_argument(str(error)) from error
        return dict(zip(outputs, values, strict=True))

    def close(self) -> None:
        """Free what the version holds; no call may be under way."""
        self._callable.cache_clear()
        self._session.close()

    def _make_callable(
        self, signature_name: str, outputs: tuple[str, ...]
    ) -> Callable[..., list[Array]]:
        signature = self.signatures[signature_name]
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[name].name for name in sorted(signature.inputs)],
            fetch=[signature.outputs[name].name for name in outputs],
            # The calling thread runs the operations itself: handing a small graph to a pool costs
            # more than running it. Kernels still spread large operations over all cores.
            run_options=config_pb2.RunOptions(inter_op_thread_pool=-1),
        )
        # The public Session.make_callable would check shapes that TensorFlow Serving does not.
        callable_: Callable[..., list[Array]] = self._session._make_callable_from_options(options)
        return callable_


def _load_error(error: Exception, path: Path) -> ServingError:
    if isinstance(error, tf.errors.OpError):
        return ServingError.from_number(error.error_code, error.message)
    if isinstance(error, OSError):
        return ServingError.from_number(
            tf.errors.DATA_LOSS, f"Can't parse {path / 'saved_model.pb'} as binary proto"
        )
    return not_found(f"cannot load {path}: {error}")
