"""Tables over HTTP: bodies of any length, decoded, predicted and encoded piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO
from urllib.parse import quote

import orjson

from client.arms.arm_call import ArmCall
from client.arms.arms import Arms
from client.arms.split import Arm
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
from client.http.predictions import Predictions, TablePredictions
from client.http.responses import MISSING_HEADER, arm_headers
from client.inference.input_ranges import MISSING, Finding, count
from client.inference.predictor import Predictor
from client.observability.prediction_ids import PREDICTION_ID_HEADER
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema
from client.serving.tensors import Array

IGNORED_HEADER = "X-Ignored-Columns"
# A buffered response goes to a temporary file beyond this size.
MAX_MEMORY_BYTES = 2**23
PIECE_BYTES = 2**18


@dataclass(frozen=True)
class StreamResponse:
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

    def __init__(self, predictor: Predictor, arms: Arms, predictions: Predictions) -> None:
        self._predictor = predictor
        self._arms = arms
        self._predictions = predictions

    async def answer(
        self,
        target: Target,
        request: HttpRequest,
        caller: str | None,
        chunks: AsyncIterator[bytes],
        timeout: float,
    ) -> StreamResponse:
        """Return the response to a table once its first piece is ready.

        The query holds the `TableOptions`.

        Args:
            target: the model, and the version if the request names one.
            request: the request without its body.
            caller: the name of its API key.
            chunks: the body.
            timeout: timeout of each call in seconds.

        Raises:
            ClientError: the table cannot be read, or its first rows cannot be predicted.
        """
        recording = self._predictions.for_table(request, caller)
        request_type = media_type(request.headers.get("content-type", ""))
        options = TableOptions.from_query(request.query)
        response_type = negotiate(request.headers.get("accept"), request_type)
        writer = table_writer(response_type, options)
        arm = self._arms.choose(target, request.headers)
        if arm is not None:
            arm = await self._compatible_arm(arm, options, Deadline(timeout))
            target = arm.target
        schema = await self._predictor.schema(target, Deadline(timeout))
        layout = TableLayout.from_schema(schema, options.signature_name, options.outputs)
        reader = table_reader(request_type, layout, options)
        versions = _Versions(self._predictor, self._arms, target, arm)
        table_answer = _TableAnswer(versions, schema, reader, writer, options, timeout, recording)
        pieces = table_answer.pieces(chunks)
        if writer.can_report_errors:
            pieces = _chain(await anext(pieces), pieces)
        else:
            # An error cannot replace a response that is half sent.
            pieces = await _buffer(pieces)
        return StreamResponse(response_type, table_answer.headers(), pieces)

    async def _compatible_arm(self, arm: Arm, options: TableOptions, deadline: Deadline) -> Arm:
        """Return the arm for a table: stable instead of a canary with other columns or outputs.

        Rows that a canary fails to predict are sent to stable as decoded for the canary.
        """
        if arm.stable is None:
            return arm
        stable = await self._predictor.schema(arm.stable, deadline)
        layout = TableLayout.from_schema(stable, options.signature_name, options.outputs)
        uncounted = arm._replace(counted=False)
        schema = await self._arms.call(
            uncounted,
            deadline,
            lambda arm_call: self._predictor.schema(arm_call.target, arm_call.deadline),
        )
        is_compatible = schema.version == arm.version and layout.is_compatible_with(schema)
        return arm if is_compatible else arm.fallback()


class _Versions:
    """The version that predicts a table, and stable in its place once it has failed."""

    def __init__(self, predictor: Predictor, arms: Arms, target: Target, arm: Arm | None) -> None:
        self.predictor = predictor
        self.model = target.model
        self._arms = arms
        self._target = target
        self._arm = arm
        # The arm that answered last.
        self.arm_name = arm.name if arm is not None else None

    async def predict(
        self,
        schema: Schema,
        call: Call,
        deadline: Deadline,
        rows_before: int,
        findings: list[Finding],
    ) -> Prediction:
        """Predict rows as `Predictor.predict` does."""

        async def send(arm_call: ArmCall) -> Prediction:
            findings.clear()
            prediction = await self.predictor.predict(
                arm_call.target,
                schema,
                call,
                arm_call.deadline,
                rows_before,
                findings,
                on_trial=arm_call.on_trial,
            )
            arm_call.check(prediction.outputs)
            self.arm_name = arm_call.arm
            return prediction

        if self._arm is None:
            return await send(ArmCall(self._target, None, deadline))
        prediction = await self._arms.call(self._arm, deadline, send)
        if self.arm_name != self._arm.name:
            self._arm = self._arm.fallback()
        # A table is counted once, by its first call.
        self._arm = self._arm._replace(counted=False, stands_in_for=None)
        return prediction


class _TableAnswer:
    """The answer to one table."""

    def __init__(
        self,
        versions: _Versions,
        schema: Schema,
        reader: TableReader,
        writer: TableWriter,
        options: TableOptions,
        timeout: float,
        recording: TablePredictions,
    ) -> None:
        self.schema = schema
        self._versions = versions
        self._reader = reader
        self._writer = writer
        self._options = options
        self._timeout = timeout
        self._recording = recording
        self._rows = 0
        self._missing = 0

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of the response."""
        headers = [*arm_headers(self.schema.version, self._versions.arm_name)]
        # The rest of a streamed response may have missing values too.
        if self._missing and not self._writer.can_report_errors:
            headers.append((MISSING_HEADER, str(self._missing)))
        if self._reader.ignored_columns:
            names = ", ".join(quote(name, safe=" ()") for name in self._reader.ignored_columns)
            headers.append((IGNORED_HEADER, names))
        if self._recording.id is not None:
            headers.append((PREDICTION_ID_HEADER, self._recording.id))
        return tuple(headers)

    async def pieces(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the response's bytes.

        Raises:
            ClientError: before the first piece, or at any time in a format without error lines.
        """
        has_begun = False
        try:
            async for piece in self._write(chunks):
                yield piece
                has_begun = True
            yield self._writer.end()
        except ClientError as error:
            if not (has_begun and self._writer.can_report_errors):
                raise
            yield orjson.dumps({"error": error.message}) + b"\n"

    async def _write(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            async for piece in self._predict_batches(self._reader.feed(chunk)):
                yield piece
        async for piece in self._predict_batches(self._reader.finish()):
            yield piece

    async def _predict_batches(self, batches: Iterable[TableRows]) -> AsyncIterator[bytes]:
        for batch in batches:
            rows = self._mark_refused(batch) if self._options.errors_in_rows else batch
            outputs: Mapping[str, Array] = self._reader.layout.empty_outputs()
            if rows.call is not None:
                outputs = (await self._predict(rows.call)).outputs
                arm = self._versions.arm_name
                self._recording.record(self.schema, rows, outputs, self._rows, arm)
            self._rows += rows.count
            yield self._writer.write(rows, outputs)

    def _mark_refused(self, rows: TableRows) -> TableRows:
        """Return rows with errors in place of those with refused values."""
        if rows.call is None:
            return rows
        indexes, offset = rows.predicted_indexes, self._rows
        errors = self._versions.predictor.find_refused(
            self.schema, rows.call, [offset + i for i in indexes]
        )
        return rows.with_errors({number - offset: message for number, message in errors.items()})

    async def _predict(self, call: Call) -> Prediction:
        deadline = Deadline(self._timeout)
        findings: list[Finding] = []
        prediction = await self._versions.predict(self.schema, call, deadline, self._rows, findings)
        self._missing += sum(count(findings, MISSING).values())
        if prediction.version != self.schema.version:
            await self._follow(prediction.version, deadline)
        return prediction

    async def _follow(self, version: int, deadline: Deadline) -> None:
        """Continue with the version that answers now, if the table's layout fits it."""
        versions = self._versions
        new = await versions.predictor.schema(Target(versions.model, version), deadline)
        if not self._reader.layout.is_compatible_with(new):
            raise ClientError(
                f"version {self.schema.version} of the model was replaced by version {version}, "
                "which has other columns or outputs; send the table again, or request one version",
                409,
            )
        self.schema = new


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _buffer(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return an iterator over the response once all of it is buffered."""
    with ExitStack() as stack:
        file = stack.enter_context(SpooledTemporaryFile(MAX_MEMORY_BYTES))
        async for piece in pieces:
            file.write(piece)
        file.seek(0)
        stack.pop_all()  # _read closes it
    return _read(file)


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece
