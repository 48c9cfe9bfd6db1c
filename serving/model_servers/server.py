"""The server: builds its parts, opens the ports and shuts down in order."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from serving.core.config_poller import ConfigPoller
from serving.core.manager import Manager
from serving.core.servable_harness import ServableHarness
from serving.core.server_core import ServerCore
from serving.core.source import Source
from serving.model_servers.addresses import AddressError, bind_socket, host_and_port
from serving.model_servers.health import HealthServicer, add_services
from serving.model_servers.http_server import HttpServer
from serving.model_servers.monitoring import Monitoring
from serving.model_servers.options import ChannelArguments, GrpcOptions, ServerOptions
from serving.model_servers.services import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    ModelService,
    PredictionService,
)
from serving.servables.loader import Loader

log = logging.getLogger(__name__)

# Time limit for requests in progress after a stop signal.
DRAIN_SECONDS = 10.0
# Maximum delay until a signal is noticed.
SIGNAL_POLL_SECONDS = 0.2
# Too many threads compete for the interpreter: on two cores, 8 threads answered a tenth fewer
# requests than 4. With a single thread, a slow model would block the others.
MIN_THREADS = 4
# Each request that waits for a batch occupies a thread.
BATCHING_THREADS = 256
DEFAULT_ARGUMENTS: ChannelArguments = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
)


def serve(options: ServerOptions, stop: threading.Event) -> None:
    """Serve until `stop` is set; it is also checked while the first models load.

    Raises:
        AddressError: an address cannot be bound.
        ServingError: the configuration is invalid, or a model cannot be loaded.
    """
    # Modules live as long as the process; collections after an unload need not visit them.
    gc.freeze()
    monitoring = Monitoring()
    health = HealthServicer()

    def on_change(harness: ServableHarness) -> None:
        monitoring.states.record(harness)
        health.report(core)

    manager = Manager(Loader(options.loader, monitoring).load, options.manager, on_change)
    source = Source(manager.aspire, options.poll_wait_seconds)
    core = ServerCore(
        manager,
        source,
        allow_labels_for_unavailable=options.allow_labels_for_unavailable,
        on_config=lambda: health.report(core),
    )
    server = _build_grpc_server(options, core, monitoring, health)
    # Fail before models load if an address is in use; open the ports afterwards.
    if options.grpc.port:
        bind_socket(options.grpc.bind_address, options.grpc.port).close()
    http = HttpServer(options.http, core, monitoring) if options.http else None
    core.start(options.config, stop.is_set)
    if stop.is_set():
        return
    port = _listen(server, options.grpc)
    server.start()
    if http is not None:
        http.start()
    if port:
        address = host_and_port(options.grpc.bind_address, port)
        log.info("Running gRPC ModelServer at %s ...", address)
    if options.grpc.socket_path:
        log.info("Running gRPC ModelServer at unix:%s ...", options.grpc.socket_path)
    poller = None
    if options.config_file is not None and options.config_poll_seconds > 0:
        poller = ConfigPoller(core, options.config_file, options.config_poll_seconds)
        poller.start()

    # Signal handlers run in this thread, and a signal delivered to another one does not wake it.
    while not stop.wait(SIGNAL_POLL_SECONDS):
        pass

    log.info("stopping: no new requests, up to %g s for those in progress", DRAIN_SECONDS)
    if poller is not None:
        poller.stop()
    source.stop()
    health.end()
    deadline = time.monotonic() + DRAIN_SECONDS
    server.stop(DRAIN_SECONDS).wait()
    if http is not None:
        http.stop()
    manager.close(max(0.0, deadline - time.monotonic()))
    log.info("stopped")


def _build_grpc_server(
    options: ServerOptions, core: ServerCore, monitoring: Monitoring, health: HealthServicer
) -> grpc.Server:
    default_threads = max(MIN_THREADS, os.cpu_count() or 1)
    if options.loader.batching:
        default_threads = BATCHING_THREADS
    server = grpc.server(
        ThreadPoolExecutor(options.grpc.max_threads or default_threads, "grpc"),
        handlers=[
            PredictionService(core, monitoring).handler(),
            ModelService(core, monitoring, options.reload_root).handler(),
        ],
        # gRPC uses the first of several arguments with the same name.
        options=[*options.grpc.channel_arguments, *DEFAULT_ARGUMENTS],
    )
    add_services(server, health, (PREDICTION_SERVICE, MODEL_SERVICE))
    return server


def _listen(server: grpc.Server, options: GrpcOptions) -> int:
    """Listen on the gRPC addresses; return the port, or 0 if there is only a UNIX socket.

    Raises:
        AddressError: an address cannot be bound.
    """
    address, port = host_and_port(options.bind_address, options.port), 0
    problem = "is it in use?"
    try:
        if options.port or not options.socket_path:
            port = _add_address(server, address, options.credentials)
        if options.socket_path:
            address = f"unix:{options.socket_path}"
            problem = "expected a path of at most 107 bytes in a writable directory"
            _add_address(server, address, options.credentials)
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {address}: {problem}") from error
    return port


def _add_address(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)
