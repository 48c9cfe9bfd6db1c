"""Unary gRPC methods that parse their requests themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving import errors
from serving.errors import ServingError
from serving.servables.session import Cancelled

log = logging.getLogger(__name__)

# Takes a request and a function that returns whether its caller has stopped waiting.
Handler = Callable[[Any, Cancelled], Any]


def unary_method(request_type: Any, handle: Handler, *, threads: int = 0) -> Any:
    """Return a unary gRPC method; a ServingError that `handle` raises becomes its status.

    It parses requests itself: gRPC's status for malformed ones differs from TensorFlow Serving's.

    Args:
        request_type: the request's message class.
        handle: returns the response's message.
        threads: size of the method's own thread pool; 0 uses the server's.
    """

    def behavior(data: bytes, context: grpc.ServicerContext) -> bytes:
        def cancelled() -> bool:
            return not context.is_active()

        try:
            request = request_type.FromString(data)
            if cancelled():
                raise errors.cancelled()  # the caller gave up while its call waited for a thread
            serialized: bytes = handle(request, cancelled).SerializeToString()
            return serialized
        except ServingError as error:
            code, details = error.code, error.details
        except DecodeError:
            code, details = grpc.StatusCode.INTERNAL, ""
        except Exception:
            log.exception("answering a %s failed", request_type.DESCRIPTOR.name)
            code, details = grpc.StatusCode.INTERNAL, "internal error; see the log for details"
        return context.abort(code, details)

    if threads:
        vars(behavior)["experimental_thread_pool"] = ThreadPoolExecutor(threads)
    return grpc.unary_unary_rpc_method_handler(behavior)
