"""The services beside TensorFlow Serving's own: `grpc.health.v1.Health` and reflection."""

from __future__ import annotations

import contextlib
import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.core import ServerCore

# Neither a busy model nor callers who hold reflection's streams open may keep health checks from
# being answered, so each has threads of its own.
HEALTH_THREADS = 2
REFLECTION_THREADS = 2
# The original names them so, without the package, if it is told to offer health checks.
SHORT_NAMES = ("PredictionService", "ModelService")
# What reflection tells of the services is declared by these modules, which were generated for an
# older protobuf: with this one they declare it and then fail.
_DECLARING = ("model_service_pb2", "prediction_service_pb2")
_STATUS = health_pb2.HealthCheckResponse


class HealthServicer(health.HealthServicer):
    """Says SERVING of each model that can be asked, and of the server if every model can."""

    def __init__(self) -> None:
        pool = ThreadPoolExecutor(HEALTH_THREADS, "health")
        super().__init__(experimental_thread_pool=pool)
        vars(HealthServicer.Check)["experimental_thread_pool"] = pool
        self._names: set[str] = set()
        self._told: dict[str, int] = {}
        self._tell("", _STATUS.NOT_SERVING)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer; here only so that the threads can be told."""
        return super().Check(request, context)

    def report(self, core: ServerCore) -> None:
        """Take notice of what is served now."""
        names = set(core.model_names)
        for gone in self._names - names:
            self._tell(gone, _STATUS.SERVICE_UNKNOWN)
        self._names = names
        serving = {name: core.is_available(name) for name in names}
        # A model may be called like a service; it is the one that can fail.
        statuses = dict.fromkeys(SHORT_NAMES, True) | serving
        statuses[""] = bool(serving) and all(serving.values())
        for name, is_serving in statuses.items():
            self._tell(name, _STATUS.SERVING if is_serving else _STATUS.NOT_SERVING)

    def _tell(self, name: str, status: int) -> None:
        # Those who watch are to hear of changes only.
        if self._told.get(name) != status:
            self._told[name] = status
            self.set(name, status)


class _ReflectionServicer(reflection.ReflectionServicer):
    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        return super().ServerReflectionInfo(request_iterator, context)


def add_services(server: grpc.Server, servicer: HealthServicer, names: tuple[str, ...]) -> None:
    """Add health checks and reflection to a server.

    Args:
        server: not started yet.
        servicer: answers the health checks.
        names: of the services to tell of.
    """
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pool = ThreadPoolExecutor(REFLECTION_THREADS, "reflection")
    vars(_ReflectionServicer.ServerReflectionInfo)["experimental_thread_pool"] = pool
    for module in _DECLARING:
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{module}")
    told = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_ReflectionServicer(told), server)
