"""The server: gRPC port, health, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health import OVERALL_HEALTH
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.manager import Manager
from serving.model_config import ModelConfig
from serving.services import ModelService, PredictionService
from serving.status_page import StatusPage

log = logging.getLogger(__name__)

# How long requests under way may go on once the server was told to stop.
DRAIN_SECONDS = 10.0
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would each get a share of the calls.
    ("grpc.so_reuseport", 0),
]


class AddressError(OSError):
    """The port cannot be listened on."""


async def serve(
    models: list[ModelConfig],
    *,
    bind_address: str,
    port: int,
    rest_api_port: int,
    poll_wait_seconds: float,
) -> None:
    """Serve the models until SIGTERM or SIGINT, then let requests under way end.

    Args:
        models: what to serve.
        bind_address: the address to listen on.
        port: of gRPC; 0 lets the system choose.
        rest_api_port: of the status page; 0 leaves it out.
        poll_wait_seconds: time between two looks at the base paths; 0 looks only once.

    Raises:
        AddressError: a port is taken, or the address is not this machine's.
    """
    server = grpc.aio.server(options=OPTIONS)
    health = HealthServicer()
    changed = asyncio.Event()
    manager = Manager(models, on_change=changed.set)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(manager), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(manager), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await _report_health(health, manager)
    try:
        port = server.add_insecure_port(f"{bind_address}:{port}")
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {bind_address}:{port}: is it taken?") from error
    page = StatusPage(manager, bind_address, rest_api_port) if rest_api_port else None
    await server.start()
    log.info("Running gRPC ModelServer at %s:%d ...", bind_address, port)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    tasks = [
        asyncio.create_task(manager.watch(poll_wait_seconds)),
        asyncio.create_task(_follow_health(health, manager, changed)),
    ]
    await stop.wait()

    log.info("stopping: no new requests, up to %g s for those under way", DRAIN_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await health.enter_graceful_shutdown()
    if page is not None:
        page.close()
    await server.stop(DRAIN_SECONDS)
    await manager.close()
    log.info("stopped")


async def _follow_health(health: HealthServicer, manager: Manager, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        await _report_health(health, manager)


async def _report_health(health: HealthServicer, manager: Manager) -> None:
    """Say SERVING of each model that has an available version, and of all if every one has."""
    statuses = {name: bool(model.available()) for name, model in manager.models.items()}
    statuses[OVERALL_HEALTH] = manager.all_available()
    for name, serving in statuses.items():
        status = health_pb2.HealthCheckResponse
        await health.set(name, status.SERVING if serving else status.NOT_SERVING)
