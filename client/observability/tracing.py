"""Traces, sent to an OpenTelemetry collector if the environment names one.

The packages are optional and imported only then. A thread sends the spans; spans that the collector
does not accept are dropped, and requests never wait for it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from client import __version__
from client.observability.request_context import RequestContext

log = logging.getLogger(__name__)

# Variables of the OpenTelemetry specification.
_EXPORTER = "OTEL_TRACES_EXPORTER"
_DISABLED = "OTEL_SDK_DISABLED"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_DEFAULT_SERVICE = "unknown_service"
_SERVICE = "tensorflow.serving.PredictionService"
_STATUS_SERVICE = "tensorflow.serving.ModelService"

_SERVER_ERROR = 500
# Time limit for sending the remaining spans at shutdown.
FLUSH_SECONDS = 3.0


def start() -> Tracing | None:
    """Return a tracer if the environment configures one and the packages are installed."""
    exporter = os.environ.get(_EXPORTER) or next(
        ("otlp" for name in _ENDPOINTS if os.environ.get(name)), "none"
    )
    if exporter == "none" or os.environ.get(_DISABLED, "").lower() == "true":
        return None
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _PROTOCOL)
    if exporter != "otlp" or protocol != _PROTOCOL:
        message = "no traces: %s over %s is not supported; expected otlp over %s"
        log.warning(message, exporter, protocol, _PROTOCOL)
        return None
    try:
        return Tracing()
    except ImportError as error:
        log.warning("no traces: requirements/tracing.txt is not installed (%s)", error)
    except ValueError as error:
        log.warning("no traces: %s", error)
    return None


class Tracing:
    """Creates and sends spans; create it in the process that serves."""

    def __init__(self) -> None:
        """Start the exporter; the SDK reads its settings from the environment."""
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith(_DEFAULT_SERVICE):
            resource = resource.merge(Resource({SERVICE_NAME: "client"}))
        # `close` flushes within a time limit, so the SDK must not wait at exit.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("client", __version__)
        self._trace, self._propagate = trace, propagate

    def begin(self, method: str, path: str, route: str, headers: Mapping[str, str]) -> Any:
        """Return the span of a request, which continues its caller's trace.

        Args:
            method: the HTTP method.
            path: the path as sent.
            route: the pattern of the path.
            headers: value by name in lower case.
        """
        method = method if method in _METHODS else "_OTHER"
        return self._tracer.start_span(
            f"{method} {route}",
            self._propagate.extract(headers),
            self._trace.SpanKind.SERVER,
            {
                "http.request.method": method,
                "http.route": route,
                "url.path": path,
                "url.scheme": "http",
            },
        )

    def end(self, span: Any, status: int | None) -> None:
        """End the span of a request.

        Args:
            span: the span.
            status: the response's status; None if the caller has disconnected.
        """
        if status is not None:
            span.set_attribute("http.response.status_code", status)
            if status >= _SERVER_ERROR:
                span.set_attribute("error.type", str(status))
                span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def record_arm(self, span: Any, model: str, arm: str) -> None:
        """Record the arm of a rollout, by OpenTelemetry's conventions for feature flags."""
        if span.is_recording():
            span.set_attribute("feature_flag.key", f"rollout/{model}")
            span.set_attribute("feature_flag.result.variant", arm)

    def begin_call(self, rpc: str, address: str, contexts: Sequence[RequestContext]) -> CallSpan:
        """Return the span of a gRPC call: a child of one request's span, linked to the others'.

        Args:
            rpc: the gRPC method.
            address: address of the server.
            contexts: contexts of the requests that share the call.
        """
        # An unrecorded request is the parent only if no request is recorded.
        first = next((c for c in contexts if c.span.is_recording()), contexts[0])
        parent = self._trace.set_span_in_context(first.span)
        service = _STATUS_SERVICE if rpc == "GetModelStatus" else _SERVICE
        span = self._tracer.start_span(
            f"{service}/{rpc}",
            parent,
            self._trace.SpanKind.CLIENT,
            {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": rpc,
                "server.address": address,
            },
            [
                self._trace.Link(other.span.get_span_context())
                for other in contexts
                if other is not first
            ],
        )
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, self._trace.set_span_in_context(span, parent))
        return CallSpan(span, contexts, tuple(carrier.items()), self._trace.StatusCode.ERROR)

    def close(self) -> None:
        """Send the remaining spans, within `FLUSH_SECONDS`."""
        # The exporter's own timeout is longer than shutdown may take.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)


class CallSpan:
    """The span of a gRPC call in flight.

    Attributes:
        metadata: metadata to send with the call.
    """

    def __init__(
        self,
        span: Any,
        contexts: Sequence[RequestContext],
        metadata: tuple[tuple[str, str], ...],
        error_status: Any,
    ) -> None:
        self.metadata = metadata
        self._span = span
        self._contexts = contexts
        self._error_status = error_status

    def end(self, code: grpc.StatusCode, request: Any, response: Any) -> None:
        """End the span, and record the model in the spans of the requests.

        Args:
            code: status of the call.
            request: the message sent.
            response: the message received; None if there was none.
        """
        spec = getattr(response, "model_spec", None)
        model = {"model.name": request.model_spec.name}
        if spec is not None:
            model["model.version"] = spec.version.value
        for span in (self._span, *(context.span for context in self._contexts)):
            if span.is_recording():  # a request may have ended before its call
                span.set_attributes(model)
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            self._span.set_status(self._error_status, code.name)
        self._span.end()
