"""Tables over HTTP: bodies of any length, decoded, predicted and encoded piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO
from urllib.parse import quote

import orjson

from client.codecs import Call, content_types
from client.codecs.tables import (
    TableLayout,
    TableOptions,
    TableReader,
    TableRows,
    TableWriter,
    media_type,
    negotiate,
    table_reader,
    table_writer,
)
from client.errors import ClientError
from client.http.messages import HttpRequest
from client.http.responses import VERSION_HEADER
from client.inference.input_ranges import MISSING, Finding, count
from client.inference.predictor import Predictor
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema
from client.serving.tensors import Array

IGNORED_HEADER = "X-Ignored-Columns"
MISSING_HEADER = "X-Missing-Imputed"
# A response that is buffered until complete goes to a temporary file beyond this size.
KEPT_BYTES = 2**23
PIECE_BYTES = 2**18


@dataclass(frozen=True)
class StreamReply:
    """A streamed response.

    Attributes:
        content_type: media type of the body.
        headers: further headers.
        pieces: the body.
    """

    content_type: str
    headers: tuple[tuple[str, str], ...]
    pieces: AsyncIterator[bytes]


def is_table(headers: Mapping[str, str]) -> bool:
    """Return whether Content-Type says that the body is a table."""
    return content_types.is_table(headers.get("content-type"))


class Tables:
    """Predicts tables, in calls of a bounded number of rows."""

    def __init__(self, core: Predictor) -> None:
        self._core = core

    async def answer(
        self, target: Target, request: HttpRequest, chunks: AsyncIterator[bytes], timeout: float
    ) -> StreamReply:
        """Return the response to a table once its first piece is ready.

        The query holds the `TableOptions`.

        Args:
            target: the model, and the version if the request names one.
            request: the request without its body.
            chunks: the body.
            timeout: timeout of each call in seconds.

        Raises:
            ClientError: the table cannot be read, or its first rows cannot be predicted.
        """
        came = media_type(request.headers.get("content-type", ""))
        options = TableOptions.from_query(request.query)
        answered = negotiate(request.headers.get("accept"), came)
        writer = table_writer(answered, options)
        schema = await self._core.schema(target, Deadline(timeout))
        layout = TableLayout.of(schema, options.signature_name, options.outputs)
        reader = table_reader(came, layout, options)
        answering = _Answering(self._core, target, schema, reader, writer, timeout)
        pieces = answering.pieces(chunks)
        if writer.can_tell_errors:
            pieces = _chained(await anext(pieces), pieces)
        else:
            # An error cannot replace a response that is half sent.
            pieces = await _kept(pieces)
        return StreamReply(answered, answering.headers(), pieces)


class _Answering:
    """The processing of one table."""

    def __init__(
        self,
        core: Predictor,
        target: Target,
        schema: Schema,
        reader: TableReader,
        writer: TableWriter,
        timeout: float,
    ) -> None:
        self.schema = schema
        self._core = core
        self._target = target
        self._reader = reader
        self._writer = writer
        self._timeout = timeout
        self._rows = 0
        self._missing = 0

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of the response."""
        headers = [(VERSION_HEADER, str(self.schema.version))]
        if self._missing:
            headers.append((MISSING_HEADER, str(self._missing)))
        if self._reader.ignored:
            names = ", ".join(quote(name, safe=" ()") for name in self._reader.ignored)
            headers.append((IGNORED_HEADER, names))
        return tuple(headers)

    async def pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the response's bytes.

        Raises:
            ClientError: before the first piece, or any time in a format without error lines.
        """
        begun = False
        try:
            async for piece in self._written(chunks):
                yield piece
                begun = True
            yield self._writer.end()
        except ClientError as error:
            if not (begun and self._writer.can_tell_errors):
                raise
            yield orjson.dumps({"error": error.message}) + b"\n"

    async def _written(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            async for piece in self._predicted(self._reader.feed(chunk)):
                yield piece
        async for piece in self._predicted(self._reader.finish()):
            yield piece

    async def _predicted(self, parts: Iterable[TableRows]) -> AsyncIterator[bytes]:
        for rows in parts:
            outputs: Mapping[str, Array] = self._reader.layout.no_outputs()
            if rows.call is not None:
                outputs = (await self._predict(rows.call)).outputs
            self._rows += rows.count
            yield self._writer.write(rows, outputs)

    async def _predict(self, call: Call) -> Prediction:
        deadline = Deadline(self._timeout)
        found: list[Finding] = []
        prediction = await self._core.predict(
            self._target, self.schema, call, deadline, self._rows, found
        )
        self._missing += sum(count(found, MISSING).values())
        if prediction.version != self.schema.version:
            await self._follow(prediction.version, deadline)
        return prediction

    async def _follow(self, version: int, deadline: Deadline) -> None:
        """Continue with the version that answers now, if it reads rows in the same way."""
        new = await self._core.schema(Target(self._target.model, version), deadline)
        if not self._reader.layout.holds_for(new):
            raise ClientError(
                f"version {self.schema.version} of the model was replaced by version {version}, "
                "which reads rows differently; send the table again, or request one version",
                409,
            )
        self.schema = new


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _kept(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Buffer the whole response before yielding it."""
    with ExitStack() as stack:
        file = stack.enter_context(SpooledTemporaryFile(KEPT_BYTES))
        async for piece in pieces:
            file.write(piece)
        file.seek(0)
        stack.pop_all()  # _read closes it
    return _read(file)


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece
