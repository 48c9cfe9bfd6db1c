"""A gRPC proxy that can refuse calls."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc


class RefusingProxy(grpc.GenericRpcHandler):
    """Forwards calls to a server, or refuses them all.

    Attributes:
        address: the address to connect to instead of the server's.
        is_refusing: whether calls are refused.
        code: the status of a refused call.
        refused_calls: number of refused calls by method.
    """

    def __init__(self, server: str) -> None:
        self.is_refusing = False
        self.code = grpc.StatusCode.UNAVAILABLE
        self.refused_calls: Counter[str] = Counter()
        self._channel = grpc.insecure_channel(server)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of a call; it forwards messages as bytes."""

        def answer(request: bytes, context: grpc.ServicerContext) -> Any:
            if self.is_refusing:
                self.refused_calls[call.method.rpartition("/")[2]] += 1
                context.abort(self.code, "refused")
            try:
                forward: Any = self._channel.unary_unary(call.method)
                return forward(request)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details() or "")

        return grpc.unary_unary_rpc_method_handler(answer)

    def __enter__(self) -> RefusingProxy:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(0).wait()
        self._channel.close()
