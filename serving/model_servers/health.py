"""The gRPC services besides TensorFlow Serving's own: health checks and reflection."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.core.server_core import ServerCore

# Threads of their own: neither a busy model nor open reflection streams delay health checks.
HEALTH_THREADS = 2
REFLECTION_THREADS = 2
# TensorFlow Serving's health service names the services so, without the package.
SHORT_NAMES = ("PredictionService", "ModelService")
# Importing these modules registers the services' descriptors, and then fails: they were generated
# for an older protobuf.
_DESCRIPTOR_MODULES = ("model_service_pb2", "prediction_service_pb2")
_STATUS = health_pb2.HealthCheckResponse

Send = Callable[[Any], None]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Reports SERVING for each model that answers, and for the server if all models do.

    gRPC's own servicer notifies watches while it holds the lock that they need to close, so a watch
    that closes at that moment blocks the whole server.
    """

    def __init__(self) -> None:
        pool = ThreadPoolExecutor(HEALTH_THREADS, "health")
        for method in (HealthServicer.Check, HealthServicer.Watch):
            vars(method)["experimental_thread_pool"] = pool
        vars(HealthServicer.Watch)["experimental_non_blocking"] = True
        # One thread, so that watches receive the changes in order.
        self._sending = ThreadPoolExecutor(1, "watches")
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {"": _STATUS.NOT_SERVING}
        self._watches: dict[Send, str] = {}
        self._names: set[str] = set()
        self._ending = False

    def Check(self, request: Any, context: Any) -> Any:
        """Return the status of a model, or of the server."""
        status = self._statuses.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return _STATUS(status=status)

    def Watch(self, request: Any, context: Any, send: Send) -> None:
        """Send the status now, and again whenever it changes."""
        with self._lock:
            self._watches[send] = request.service
            status = self._statuses.get(request.service, _STATUS.SERVICE_UNKNOWN)
            self._sending.submit(send, _STATUS(status=status))
        if not context.add_callback(lambda: self._watches.pop(send, None)):
            self._watches.pop(send, None)

    def report(self, core: ServerCore) -> None:
        """Update the statuses from the models that are served now."""
        names = set(core.model_names)
        for gone in self._names - names:
            self._set(gone, _STATUS.SERVICE_UNKNOWN)
        self._names = names
        serving = {name: core.is_available(name) for name in names}
        # A model may have a service's name; only the model can fail.
        statuses = dict.fromkeys(SHORT_NAMES, True) | serving
        statuses[""] = bool(serving) and all(serving.values())
        for name, is_serving in statuses.items():
            self._set(name, _STATUS.SERVING if is_serving else _STATUS.NOT_SERVING)

    def end(self) -> None:
        """Report NOT_SERVING for everything from now on, and end the watches."""
        for name in list(self._statuses):
            self._set(name, _STATUS.NOT_SERVING)
        with self._lock:
            self._ending = True
            for send in list(self._watches):
                self._sending.submit(send, None)

    def _set(self, name: str, status: int) -> None:
        with self._lock:
            if self._ending or self._statuses.get(name) == status:
                return
            self._statuses[name] = status
            for send, watched in list(self._watches.items()):
                if watched == name:
                    self._sending.submit(send, _STATUS(status=status))


class _ReflectionServicer(reflection.ReflectionServicer):
    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:
        return super().ServerReflectionInfo(request_iterator, context)


def add_services(server: grpc.Server, servicer: HealthServicer, names: tuple[str, ...]) -> None:
    """Add health checks and reflection to a server.

    Args:
        server: not started yet.
        servicer: of the health checks.
        names: of the services that reflection describes.
    """
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pool = ThreadPoolExecutor(REFLECTION_THREADS, "reflection")
    vars(_ReflectionServicer.ServerReflectionInfo)["experimental_thread_pool"] = pool
    for module in _DESCRIPTOR_MODULES:
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{module}")
    described = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        _ReflectionServicer(described), server
    )
