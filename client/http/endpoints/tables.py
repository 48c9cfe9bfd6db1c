"""Tables over HTTP: bodies of any length, read, predicted and answered piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO
from urllib.parse import parse_qs

import orjson

from client.codecs import Call
from client.codecs.tables import (
    READABLE,
    TableLayout,
    TableReader,
    TableWriter,
    media_type,
    negotiate,
    table_reader,
    table_writer,
)
from client.errors import ClientError
from client.http.messages import JSON, HttpRequest
from client.http.responses import VERSION_HEADER
from client.inference.predictor import Predictor
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema

# Of an answer that is kept until it is whole, so much stays in memory, the rest in a file.
KEPT_BYTES = 2**23
PIECE_BYTES = 2**18


@dataclass(frozen=True)
class StreamReply:
    """An answer that is made while it is sent.

    Attributes:
        content_type: of the pieces.
        headers: further ones.
        pieces: the bytes.
    """

    content_type: str
    headers: tuple[tuple[str, str], ...]
    pieces: AsyncIterator[bytes]


def is_table(headers: Mapping[str, str]) -> bool:
    """Tell whether a request's body is a table, by its Content-Type."""
    content_type = headers.get("content-type", JSON)
    return content_type != JSON and content_type.partition(";")[0].strip().lower() in READABLE


class Tables:
    """Predicts tables, in calls of a bounded number of rows."""

    def __init__(self, core: Predictor) -> None:
        self._core = core

    async def answer(
        self, target: Target, request: HttpRequest, chunks: AsyncIterator[bytes], timeout: float
    ) -> StreamReply:
        """Return the answer to a table, begun.

        The query may choose a signature, and outputs: `?signature_name=…&outputs=a,b`.

        Args:
            target: the model, and the version if one is asked for.
            request: without its body.
            chunks: the body.
            timeout: seconds that each call may take.

        Raises:
            ClientError: the table cannot be read, or its first rows cannot be predicted.
        """
        came = media_type(request.headers.get("content-type", ""))
        writer = table_writer(negotiate(request.headers.get("accept"), came))
        query = parse_qs(request.query)
        name = query.get("signature_name", [""])[0]
        named = [o for value in query.get("outputs", []) for o in value.split(",") if o]
        outputs = tuple(dict.fromkeys(named))
        schema = await self._core.schema(target, Deadline(timeout))
        reader = table_reader(came, TableLayout.of(schema, name, outputs))
        answering = _Answering(self._core, target, schema, reader, writer, timeout)
        pieces = answering.pieces(chunks)
        if writer.can_tell_errors:
            pieces = _chained(await anext(pieces), pieces)
        else:
            # HTTP has no way to take back an answer that is half sent.
            pieces = await _kept(pieces)
        return StreamReply(
            negotiate(request.headers.get("accept"), came),
            ((VERSION_HEADER, str(answering.schema.version)),),
            pieces,
        )


class _Answering:
    """One table on its way."""

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

    async def pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Give the answer's bytes.

        Raises:
            ClientError: before the first piece, or at any time in a form that cannot tell it.
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
            for call in self._reader.feed(chunk):
                yield self._writer.write((await self._predict(call)).outputs)
        for call in self._reader.finish():
            yield self._writer.write((await self._predict(call)).outputs)

    async def _predict(self, call: Call) -> Prediction:
        deadline = Deadline(self._timeout)
        prediction = await self._core.predict(self._target, self.schema, call, deadline, self._rows)
        self._rows += len(next(iter(call.inputs.values())))
        if prediction.version != self.schema.version:
            await self._follow(prediction.version, deadline)
        return prediction

    async def _follow(self, version: int, deadline: Deadline) -> None:
        """Go on with the version that answers now, if it reads the rows as they were read."""
        new = await self._core.schema(Target(self._target.model, version), deadline)
        if not self._reader.layout.holds_for(new):
            raise ClientError(
                f"version {self.schema.version} of the model gave way to version {version}, which "
                "reads rows in another way; send the table again, or ask for one version",
                409,
            )
        self.schema = new


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _kept(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Wait for all of an answer, and give it then."""
    with ExitStack() as stack:
        file = stack.enter_context(SpooledTemporaryFile(KEPT_BYTES))
        async for piece in pieces:
            file.write(piece)
        file.seek(0)
        stack.pop_all()  # whoever reads it closes it
    return _read(file)


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece
