"""The REST dialect's modules put together without an HTTP server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from client import messages
from client.dialects.rest import examples, models, predict
from client.dialects.rest.routes import CORS, Question, refused, route
from client.errors import ClientError, ServerError
from client.exchange import HttpReply, HttpRequest
from client.model_server import ModelServer


class Driver:
    """Answers requests with a model server."""

    def __init__(self, address: str, *, cors: bool = False) -> None:
        """Open the connection.

        Args:
            address: of the model server's gRPC port.
            cors: whether replies say that pages of other origins may read them.
        """
        self._server = ModelServer(address, timeout=30)
        self._channel = grpc.insecure_channel(address)
        self._stub = messages.PredictionServiceStub(self._channel)
        self._headers = CORS if cors else ()

    def handle(self, request: HttpRequest) -> HttpReply:
        """Answer a request to the dialect's paths."""
        asked = route(request)
        assert asked is not None, request.path
        if isinstance(asked, Question):
            try:
                reply = HttpReply(self._answer(asked, request.body))
            except ClientError as error:
                reply = refused(error)
        else:
            reply = asked
        body = b"" if request.method == "HEAD" else reply.body
        return HttpReply(body, reply.status, reply.content_type, reply.headers + self._headers)

    def close(self) -> None:
        self._server.close()
        self._channel.close()

    def _answer(self, asked: Question, body: bytes) -> bytes:
        if asked.verb == "predict":
            return self._predict(asked, body)
        if asked.verb == "status":
            return models.write_status(self._server.status(asked.target))
        if asked.verb == "metadata":
            return models.write_metadata(self._server.schema(asked.target))
        name, sent = examples.read(body)
        spec = asked.target.spec(name)
        if asked.verb == "classify":
            request = messages.ClassificationRequest(model_spec=spec, input=sent)
            return examples.write_classification(_called(self._stub.Classify, request))
        request = messages.RegressionRequest(model_spec=spec, input=sent)
        return examples.write_regression(_called(self._stub.Regress, request))

    def _predict(self, asked: Question, body: bytes) -> bytes:
        try:
            schema = self._server.schema(asked.target)
        except ClientError:
            predict.check_body(body)
            raise
        read = predict.read(body, schema)
        prediction = self._server.predict(
            asked.target,
            read.call.inputs,
            signature_name=read.call.signature_name,
            signature=schema.signatures[read.call.signature_name],
        )
        return predict.write(prediction.outputs, row_form=read.row_form)


def _called(method: Callable[..., Any], request: Any) -> Any:
    try:
        return method(request, timeout=30)
    except grpc.RpcError as error:
        raise ServerError(error.code(), error.details() or "") from error
