"""The services beside TensorFlow Serving's own: `grpc.health.v1.Health` and reflection."""

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

Send = Callable[[Any], None]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Says SERVING of each model that can be asked, and of the server if every model can.

    gRPC's own servicer tells watches of a change while it holds the lock that they need to close,
    so that one which closes at that moment stops the whole server.
    """

    def __init__(self) -> None:
        pool = ThreadPoolExecutor(HEALTH_THREADS, "health")
        for method in (HealthServicer.Check, HealthServicer.Watch):
            vars(method)["experimental_thread_pool"] = pool
        vars(HealthServicer.Watch)["experimental_non_blocking"] = True
        # Sends one after another, in a thread that nobody waits for.
        self._sending = ThreadPoolExecutor(1, "watches")
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {"": _STATUS.NOT_SERVING}
        self._watches: dict[Send, str] = {}
        self._names: set[str] = set()
        self._ending = False

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tell the status of a model, or of the server."""
        status = self._statuses.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no {request.service}")
        return _STATUS(status=status)

    def Watch(self, request: Any, context: Any, send: Send) -> None:  # noqa: N802
        """Tell it now, and again whenever it changes."""
        with self._lock:
            self._watches[send] = request.service
            status = self._statuses.get(request.service, _STATUS.SERVICE_UNKNOWN)
            self._sending.submit(send, _STATUS(status=status))
        if not context.add_callback(lambda: self._watches.pop(send, None)):
            self._watches.pop(send, None)

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

    def end(self) -> None:
        """Say NOT_SERVING of everything from now on, and end the watches."""
        for name in list(self._statuses):
            self._tell(name, _STATUS.NOT_SERVING)
        with self._lock:
            self._ending = True
            for send in list(self._watches):
                self._sending.submit(send, None)

    def _tell(self, name: str, status: int) -> None:
        with self._lock:
            if self._ending or self._statuses.get(name) == status:
                return
            self._statuses[name] = status
            for send, watched in list(self._watches.items()):
                if watched == name:
                    self._sending.submit(send, _STATUS(status=status))


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
