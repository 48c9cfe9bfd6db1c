"""`/feedback`: labels of earlier predictions, written to the feedback log."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timezone
from urllib.parse import parse_qs

from client.codecs.content_types import media_type
from client.codecs.feedback import FeedbackReader, counts
from client.errors import ClientError, UnavailableError
from client.http import paths
from client.http.errors import error_response
from client.http.messages import JSON, HttpRequest, HttpResponse
from client.http.request_body import too_large
from client.http.responses import json_response
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.observability.metrics import Metrics
from client.observability.segments import Segments
from client.serving.client import Target
from client.serving.deadlines import Deadline

OFF = "feedback is off; set CLIENT_LOG to a directory to switch it on, with the prediction log"


class FeedbackApi:
    """Accepts feedback, piece by piece."""

    def __init__(
        self,
        predictor: Predictor,
        metrics: Metrics,
        model: str,
        max_body_bytes: int,
        segments: Segments | None,
    ) -> None:
        """Create the route.

        Args:
            predictor: provides the models' class names.
            metrics: counts labels.
            model: the model that labels belong to, unless the query names another.
            max_body_bytes: largest JSON body.
            segments: the feedback log; None if feedback is off.
        """
        self._predictor = predictor
        self._metrics = metrics
        self._model = model
        self._max_body = max_body_bytes
        self._segments = segments
        self._route = Route(paths.FEEDBACK, ("POST",), handle=_refuse)
        if segments is not None:
            self._route = Route(paths.FEEDBACK, ("POST",), upload=self._accept)

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        return self._route if request.path == paths.FEEDBACK else None

    async def _accept(
        self,
        request: HttpRequest,
        caller: str | None,
        chunks: AsyncIterator[bytes],
        deadline: Deadline,
    ) -> HttpResponse:
        """Write labels to the log as they arrive."""
        content_type = media_type(request.headers.get("content-type", JSON))
        model = parse_qs(request.query).get("model", [self._model])[0]
        schema = await self._predictor.schema(Target(model), deadline)
        names = schema.description.class_names if schema.description is not None else ()
        reader = FeedbackReader(content_type, names, caller, datetime.now(timezone.utc))
        try:
            if content_type == JSON:
                body = await _read_all(chunks, self._max_body)
                await to_thread(self._write, reader, reader.read_json, body)
            else:
                async for chunk in chunks:
                    for block in reader.blocks(chunk):
                        await to_thread(self._write, reader, reader.read, block)
                await to_thread(self._write, reader, reader.read, reader.flush())
        except ClientError as error:
            # Rows counted as accepted are stored; sending them again is harmless.
            return error_response(error, request.path, counts(reader))
        if reader.accepted:
            return json_response(counts(reader), 202)
        if not reader.refused:
            raise ClientError("expected at least one row, got none")
        first = reader.errors[0]
        refused = ClientError(f"line {first['line']}: {first['error']}")
        return error_response(refused, request.path, counts(reader))

    def _write(
        self, reader: FeedbackReader, read: Callable[[bytes], Iterator[bytes]], block: bytes
    ) -> None:
        assert self._segments is not None
        before, refused = reader.accepted, reader.refused
        stored = before
        try:
            for lines in read(block):
                self._segments.append(lines)
                stored = reader.accepted
        except OSError as error:
            reader.accepted = stored
            raise UnavailableError(f"feedback cannot be stored: {error.strerror}") from error
        finally:
            self._metrics.feedback.labels("accepted").inc(stored - before)
            self._metrics.feedback.labels("refused").inc(reader.refused - refused)


async def _refuse(request: HttpRequest, deadline: Deadline) -> HttpResponse:
    raise ClientError(OFF, 404)


async def _read_all(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)
