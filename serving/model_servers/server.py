"""The server: its parts put together, its ports, and an orderly end."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from serving.batching.batching_session import BatchingSession
from serving.batching.scheduler import BatchingParameters, BatchScheduler
from serving.batching.session import DirectSession, Session
from serving.core.manager import Manager, ManagerOptions
from serving.core.model_config import ConfigError, read_text_proto
from serving.core.servable_harness import Version
from serving.core.server_core import ConfigPoller, ServerCore
from serving.core.source import Source
from serving.errors import invalid_argument
from serving.model_servers.config_messages import BatchingParameters as BatchingParametersMessage
from serving.model_servers.health import HealthServicer, add_services
from serving.model_servers.http_server import HttpOptions, HttpPort
from serving.model_servers.monitoring import Monitoring
from serving.model_servers.services import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    ModelService,
    PredictionService,
)
from serving.servables.servable import LoadOptions, Servable
from serving.servables.warmup import warm_up

log = logging.getLogger(__name__)

# How long requests under way may go on once the server was told to stop.
DRAIN_SECONDS = 10.0
# How late a signal may be noticed.
SIGNAL_SECONDS = 0.2
# How long the ports stay shut while a first load is tried again and again.
FIRST_LOAD_PATIENCE_SECONDS = 10.0
# More threads than cores compete for the interpreter: with 8 on two cores there were a tenth fewer
# answers than with 4. A few more than one keep a slow model from holding up the others.
THREADS = 4
# Callers that wait for a batch each hold a thread.
BATCHING_THREADS = 256
MODEL_BATCHING_FILE = "batching_params.pbtxt"
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would each get a share of the calls.
    ("grpc.so_reuseport", 0),
)


class AddressError(OSError):
    """The port cannot be listened on."""


@dataclass(frozen=True)
class ServerOptions:
    """What the command line says, read and checked.

    Attributes:
        config: the first `ModelServerConfig`.
        config_file: where it came from, if it is to be read again.
        config_poll_seconds: time between two looks at it; 0: none.
        reload_root: the directory below which a reload may point a model; None: anywhere.
        poll_wait_seconds: time between two looks at the base paths; 0: one look; below 0: none.
        bind_address: the address to listen on.
        port: of gRPC; 0 lets the system choose.
        socket_path: a UNIX socket to listen on too; with port 0 the only one.
        credentials: of the gRPC port; None: no TLS.
        channel_options: of gRPC.
        threads: how many requests are answered at once; 0: as many as is good.
        http: the other port; None: there is none.
        load: how versions are loaded.
        manager: when versions are loaded.
        warmup_iterations: how often each warm-up request is answered; 0: not at all.
        batching_threads: how many batches are computed at once; 0: requests are computed one by
            one.
        batching: how requests are put into batches; None: as the parameters say that a version
            brings.
        allow_labels_for_unavailable: see `ServerCore`.
        as_content: see `PredictionService`.
        check_method: see `PredictionService`.
    """

    config: Any
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    reload_root: Path | None = None
    poll_wait_seconds: float = 1.0
    bind_address: str = "0.0.0.0"
    port: int = 8500
    socket_path: str = ""
    credentials: grpc.ServerCredentials | None = None
    channel_options: tuple[tuple[str, int | str], ...] = ()
    threads: int = 0
    http: HttpOptions | None = None
    load: LoadOptions = field(default_factory=LoadOptions)
    manager: ManagerOptions = field(default_factory=ManagerOptions)
    warmup_iterations: int = 1
    batching_threads: int = 0
    batching: BatchingParameters | None = None
    allow_labels_for_unavailable: bool = False
    as_content: bool = False
    check_method: bool = False


def serve(options: ServerOptions, stop: threading.Event) -> None:
    """Serve the models until told to stop, then let requests under way end.

    Args:
        options: all there is to know.
        stop: set when the server is to stop, from the moment it begins to load on.

    Raises:
        AddressError: a port is taken, or the address is not this machine's.
        ServingError: the configuration is wrong, or a model cannot be loaded.
    """
    monitoring = Monitoring()
    servicer = HealthServicer()

    def on_change(version: Version) -> None:
        monitoring.states.changed(version)
        servicer.report(core)

    manager = Manager(
        _Loader(options, monitoring),
        options.manager,
        on_change=on_change,
    )
    source = Source(manager.aspire, options.poll_wait_seconds)
    core = ServerCore(
        manager, source, allow_labels_for_unavailable=options.allow_labels_for_unavailable
    )
    server = _grpc_server(options, core, monitoring, servicer)
    # Addresses that are taken are told before models are loaded; ports open after it.
    _check_address(options)
    http = HttpPort(options.http, core, monitoring) if options.http else None
    core.start(options.config, FIRST_LOAD_PATIENCE_SECONDS, stop.is_set)
    if stop.is_set():
        return
    servicer.report(core)
    port = _listen(server, options)
    server.start()
    log.info("Running gRPC ModelServer at %s:%d ...", options.bind_address, port)
    if http is not None:
        http.start()
    poller = None
    if options.config_file is not None and options.config_poll_seconds > 0:
        poller = ConfigPoller(core, options.config_file, options.config_poll_seconds)
        poller.start()

    # Signals are handled in this thread, and one that the system gives to another does not wake it.
    while not stop.wait(SIGNAL_SECONDS):
        pass

    log.info("stopping: no new requests, up to %g s for those under way", DRAIN_SECONDS)
    if poller is not None:
        poller.stop()
    source.stop()
    servicer.end()
    deadline = time.monotonic() + DRAIN_SECONDS
    server.stop(DRAIN_SECONDS).wait()
    if http is not None:
        http.stop()
    manager.close(max(0.0, deadline - time.monotonic()))
    log.info("stopped")


class _Loader:
    """Loads a version, warms it up, and puts a batching session around it if there is to be one."""

    def __init__(self, options: ServerOptions, monitoring: Monitoring) -> None:
        self._options = options
        self._monitoring = monitoring
        self._scheduler = (
            BatchScheduler(options.batching_threads) if options.batching_threads else None
        )

    def __call__(self, model: str, number: int, path: Path) -> Session:
        with _timed(self._monitoring.load, path):
            servable = Servable.load(path, self._options.load)
        try:
            session = self._session(servable)
        except Exception:
            servable.close()
            raise
        try:
            if self._options.warmup_iterations:
                self._warm_up(session, f"model {model} version {number}")
        except Exception:
            session.close()
            raise
        return session

    def _session(self, servable: Servable) -> Session:
        parameters = self._options.batching
        if self._scheduler is None:
            return DirectSession(servable)
        if parameters is None:
            file = servable.path / MODEL_BATCHING_FILE
            if not file.exists():
                return DirectSession(servable)
            parameters = BatchingParameters.of(_batching_message(file))
        return BatchingSession(servable, self._scheduler, parameters)

    def _warm_up(self, session: Session, version: str) -> None:
        started = time.perf_counter()
        records = warm_up(
            session, self._options.warmup_iterations, check_method=self._options.check_method
        )
        if records:
            seconds = time.perf_counter() - started
            self._monitoring.warmup(str(session.servable.path), seconds)
            log.info("%s: %d warm-up requests", version, records)


def _batching_message(file: Path) -> Any:
    try:
        return read_text_proto(file, BatchingParametersMessage(), "batching parameters")
    except ConfigError as error:
        raise invalid_argument(str(error)) from error


@contextmanager
def _timed(observe: Callable[[str, bool, float], None], path: Path) -> Iterator[None]:
    started, success = time.perf_counter(), False
    try:
        yield
        success = True
    finally:
        observe(str(path), success, time.perf_counter() - started)


def _grpc_server(
    options: ServerOptions, core: ServerCore, monitoring: Monitoring, servicer: HealthServicer
) -> grpc.Server:
    threads = options.threads
    if not threads:
        plain = max(THREADS, os.cpu_count() or 1)
        threads = BATCHING_THREADS if options.batching_threads else plain
    server = grpc.server(
        ThreadPoolExecutor(threads, "grpc"),
        handlers=[
            PredictionService(
                core,
                monitoring,
                as_content=options.as_content,
                check_method=options.check_method,
            ).handler(),
            ModelService(core, monitoring, options.reload_root).handler(),
        ],
        # Of an argument that is given twice, gRPC takes the first.
        options=[*options.channel_options, *CHANNEL_OPTIONS],
    )
    add_services(server, servicer, (PREDICTION_SERVICE, MODEL_SERVICE))
    return server


def _check_address(options: ServerOptions) -> None:
    """See that the gRPC port can be listened on, without listening on it yet.

    Raises:
        AddressError: it cannot.
    """
    if not options.port:
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            options.bind_address, options.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressError(
            f"cannot listen on {options.bind_address}:{options.port}: {error.strerror}"
        ) from error


def _listen(server: grpc.Server, options: ServerOptions) -> int:
    """Listen on the gRPC addresses, and return the port, 0 if there is only a UNIX socket.

    Raises:
        AddressError: one cannot be listened on.
    """
    address, port = f"{options.bind_address}:{options.port}", 0
    try:
        if options.port or not options.socket_path:
            port = _add_address(server, address, options.credentials)
        if options.socket_path:
            address = f"unix:{options.socket_path}"
            _add_address(server, address, options.credentials)
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {address}: is it taken?") from error
    return port


def _add_address(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)
