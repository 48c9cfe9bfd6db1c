"""The loader: turns a version directory into a warmed-up servable."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.batching.batching_session import BatchingSession
from serving.batching.parameters import BatchingOptions, read_parameters
from serving.batching.scheduler import BatchScheduler
from serving.servables import saved_model
from serving.servables.servable import RecordRun, ResponseOptions, Servable, Signature
from serving.servables.session import GraphSession, Session
from serving.servables.warmup import warm_up

log = logging.getLogger(__name__)

SERVE_TAG = "serve"


class LoadMonitoring(Protocol):
    """Metrics of loads, and of the runs of loaded graphs."""

    def record_load(self, path: Path, success: bool, seconds: float) -> None:
        """Record an attempt to load a version."""

    def record_warmup(self, path: Path, seconds: float) -> None:
        """Record a successful warm-up."""

    def record_run(self, model: str, version: int, api: str, seconds: float) -> None:
        """Record a successful run of a graph."""


@dataclass(frozen=True)
class LoaderOptions:
    """Options for loading a version.

    Attributes:
        tags: the tags of the graph to load.
        session_config: a `tensorflow.ConfigProto`, which sets the numbers of threads.
        use_inter_op_pool: run independent operations of a request on TensorFlow's thread pool. By
            default the request's thread runs them in turn: handing over a small graph costs more
            than running it, and kernels use all cores for large operations anyway.
        warmup_iterations: runs of each warm-up request; 0: no warm-up.
        batching: batching options; None: requests are not batched.
        responses: options of the responses.
    """

    tags: tuple[str, ...] = (SERVE_TAG,)
    session_config: Any = field(default_factory=config_pb2.ConfigProto)
    use_inter_op_pool: bool = False
    warmup_iterations: int = 1
    batching: BatchingOptions | None = None
    responses: ResponseOptions = field(default_factory=ResponseOptions)


class Loader:
    """Loads versions; thread-safe."""

    def __init__(self, options: LoaderOptions, monitoring: LoadMonitoring) -> None:
        self._options = options
        self._monitoring = monitoring
        batching = options.batching
        self._scheduler = BatchScheduler(batching.threads) if batching is not None else None

    def load(self, name: str, version: int, path: Path) -> Servable:
        """Load a version directory and run its warm-up requests.

        Raises:
            ServingError: the SavedModel is missing or cannot be loaded, or a warm-up request fails.
        """
        graph_session, signatures = self._load(path)
        session: Session = graph_session
        try:
            session = self._add_batching(session, path)
            record_run: RecordRun = functools.partial(self._monitoring.record_run, name, version)
            servable = Servable(
                name, version, path, signatures, session, self._options.responses, record_run
            )
            self._warm_up(servable)
        except BaseException:
            session.close()
            raise
        return servable

    def _load(self, path: Path) -> tuple[GraphSession, Mapping[str, Signature]]:
        options, started, success = self._options, time.perf_counter(), False
        tf_session = tf.compat.v1.Session(graph=tf.Graph(), config=options.session_config)
        session = GraphSession(tf_session, use_inter_op_pool=options.use_inter_op_pool)
        try:
            with tf_session.graph.as_default():
                meta_graph = saved_model.load(tf_session, path, options.tags)
            signatures = {
                name: Signature.of(_copy_definition(definition), session.dtype)
                for name, definition in meta_graph.signature_def.items()
            }
            success = True
            return session, signatures
        finally:
            self._monitoring.record_load(path, success, time.perf_counter() - started)
            if not success:
                session.close()

    def _add_batching(self, session: Session, path: Path) -> Session:
        if self._scheduler is None or self._options.batching is None:
            return session
        parameters = self._options.batching.parameters or read_parameters(path)
        if parameters is None:
            return session
        return BatchingSession(session, self._scheduler, parameters)

    def _warm_up(self, servable: Servable) -> None:
        if not self._options.warmup_iterations:
            return
        started = time.perf_counter()
        records = warm_up(servable, self._options.warmup_iterations)
        if records:
            self._monitoring.record_warmup(servable.path, time.perf_counter() - started)
            log.info(
                "model %s version %d: %d warm-up requests", servable.name, servable.version, records
            )


def _copy_definition(definition: Any) -> Any:
    """Copy a SignatureDef, so that it does not keep its MetaGraphDef in memory."""
    copy = meta_graph_pb2.SignatureDef()
    copy.CopyFrom(definition)
    return copy
