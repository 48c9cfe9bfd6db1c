"""The gRPC services besides TensorFlow Serving's own: health checks and reflection."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.core.server_core import ServerCore

# Dedicated threads, so that neither a busy model nor open reflection streams delay health checks.
HEALTH_THREADS = 2
REFLECTION_THREADS = 2
# TensorFlow Serving's health service uses service names without the package.
SHORT_NAMES = ("PredictionService", "ModelService")
# Importing these modules registers the services' descriptors and then fails, because they were
# generated for an older protobuf.
_DESCRIPTOR_MODULES = ("model_service_pb2", "prediction_service_pb2")
_Response = health_pb2.HealthCheckResponse

Send = Callable[[Any], None]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Reports SERVING for each available model, and for the server if all models are available.

    gRPC's own servicer notifies watches while it holds the lock that they need to close, so a watch
    that closes at that moment blocks the whole server.
    """

    def __init__(self) -> None:
        pool = ThreadPoolExecutor(HEALTH_THREADS, "health")
        for method in (HealthServicer.Check, HealthServicer.Watch):
            vars(method)["experimental_thread_pool"] = pool
        vars(HealthServicer.Watch)["experimental_non_blocking"] = True
        # One thread, so that watches receive the changes in order.
        self._send_pool = ThreadPoolExecutor(1, "watches")
        self._lock = threading.Lock()
        self._statuses: Mapping[str, int] = {"": _Response.NOT_SERVING}
        self._watches: dict[Send, str] = {}
        self._report_numbers = itertools.count()
        self._latest_report = -1
        self._ending = False

    def Check(self, request: Any, context: Any) -> Any:
        """Return the status of a model, or of the server."""
        status = self._statuses.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return _Response(status=status)

    def Watch(self, request: Any, context: Any, send: Send) -> None:
        """Send the status now and whenever it changes."""
        with self._lock:
            self._watches[send] = request.service
            status = self._statuses.get(request.service, _Response.SERVICE_UNKNOWN)
            self._send_pool.submit(send, _Response(status=status))
            if self._ending:
                self._send_pool.submit(send, None)
        if not context.add_callback(lambda: self._watches.pop(send, None)):
            self._watches.pop(send, None)

    def report(self, core: ServerCore) -> None:
        """Update the statuses from the current availability of the models."""
        # Reports may overlap; an earlier one must not overwrite the statuses of a later one.
        number = next(self._report_numbers)
        models = {name: core.is_available(name) for name in core.model_names}
        # A model may have a service's name; only the model can be unavailable.
        available = dict.fromkeys(SHORT_NAMES, True) | models
        available[""] = bool(models) and all(models.values())
        statuses = {
            name: _Response.SERVING if is_available else _Response.NOT_SERVING
            for name, is_available in available.items()
        }
        with self._lock:
            if number > self._latest_report and not self._ending:
                self._latest_report = number
                self._update(statuses)

    def end(self) -> None:
        """Report NOT_SERVING for everything from now on and end the watches."""
        with self._lock:
            self._ending = True
            self._update(dict.fromkeys(self._statuses, _Response.NOT_SERVING))
            for send in list(self._watches):
                self._send_pool.submit(send, None)

    def _update(self, statuses: Mapping[str, int]) -> None:
        """Replace the statuses and send the changes to the watches; the lock must be held."""
        old, self._statuses = self._statuses, statuses
        for send, name in list(self._watches.items()):
            status = statuses.get(name, _Response.SERVICE_UNKNOWN)
            if status != old.get(name, _Response.SERVICE_UNKNOWN):
                self._send_pool.submit(send, _Response(status=status))


class _ReflectionServicer(reflection.ReflectionServicer):
    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:
        return super().ServerReflectionInfo(request_iterator, context)


def add_services(server: grpc.Server, servicer: HealthServicer, names: tuple[str, ...]) -> None:
    """Add health checks and reflection to a server.

    Args:
        server: a server that has not been started.
        servicer: the health checks.
        names: names of the services that reflection describes, besides its own and health.
    """
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pool = ThreadPoolExecutor(REFLECTION_THREADS, "reflection")
    vars(_ReflectionServicer.ServerReflectionInfo)["experimental_thread_pool"] = pool
    for module in _DESCRIPTOR_MODULES:
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{module}")
    service_names = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        _ReflectionServicer(service_names), server
    )
