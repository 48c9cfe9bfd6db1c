"""Predictions after the call: counts for drift, ids, and the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from client.codecs import Codec
from client.codecs.tables import TableRows
from client.errors import ClientError
from client.http.access_log import read_request_id
from client.http.jobs import ApiJob
from client.http.messages import HttpRequest, HttpResponse
from client.inference.attempts import BatchResult
from client.observability.log_rows import LoggedCall, ShadowAnswer
from client.observability.metrics import Metrics
from client.observability.prediction_ids import is_id, new_ids
from client.observability.prediction_log import PredictionLog
from client.serving import deadlines
from client.serving.client import Prediction
from client.serving.schema import DESCRIBE, EXPLAIN, Schema
from client.serving.tensors import Array

# Signatures whose outputs are not predictions.
OTHER_SIGNATURES = (EXPLAIN, DESCRIBE)

# Exploratory rows, such as those of the page's charts, are not traffic.
RECORD_HEADER = "x-prediction-record"

Log = Callable[[Prediction | None], None]


class Predictions:
    """Counts and logs predictions; ids exist only if there is a log."""

    def __init__(self, metrics: Metrics, log: PredictionLog | None) -> None:
        self._drift = metrics.drift
        self._log = log

    def record(
        self,
        codec: Codec,
        result: BatchResult,
        jobs: Sequence[ApiJob],
        responses: Sequence[HttpResponse],
        arm: str | None,
    ) -> tuple[Sequence[HttpResponse], Log]:
        """Count the rows of a call.

        Args:
            codec: the requests' dialect.
            result: the requests that shared the call, and their prediction.
            jobs: the jobs of these requests.
            responses: their responses.
            arm: the arm of a rollout that answered.

        Returns:
            The responses with their ids, and a function that logs the rows; call it once, with the
            prediction of a shadow version or with None.
        """
        batch, (outputs, _), schema, _ = result
        if batch.call.signature_name in OTHER_SIGNATURES:
            return responses, log_nothing
        self._drift.add(schema, batch.call, outputs)
        log = self._log
        if log is None:
            return responses, log_nothing
        ids = _ids(jobs, codec.ids(batch))
        now = deadlines.now()
        logged = LoggedCall(
            schema,
            batch.call,
            outputs,
            ids,
            batch.rows,
            [job.caller for job in jobs],
            [now - job.started for job in jobs],
            [time.time()] * len(jobs),
            arm=arm,
        )

        def put(shadow: Prediction | None) -> None:
            if shadow is None:
                log.put(logged)
            else:
                log.put(logged._replace(shadow=ShadowAnswer(shadow.version, shadow.outputs)))

        identified = [
            HttpResponse(
                response.body,
                response.status,
                response.content_type,
                response.headers,
                prediction_id,
            )
            for response, prediction_id in zip(responses, ids, strict=True)
        ]
        return identified, put

    def for_table(self, request: HttpRequest, caller: str | None) -> TablePredictions:
        """Return a recorder for the rows of a table."""
        prediction_id = None
        recorded = is_recorded(request.headers)
        if recorded and self._log is not None:
            prediction_id = read_request_id(request.headers) or next(new_ids())
        return TablePredictions(self, prediction_id, caller, recorded)

    def record_rows(
        self,
        schema: Schema,
        rows: TableRows,
        outputs: Mapping[str, Array],
        table: TablePredictions,
        rows_before: int,
        arm: str | None,
    ) -> None:
        """Count and log some rows of a table."""
        call = rows.call
        if call is None or call.signature_name in OTHER_SIGNATURES:
            return
        self._drift.add(schema, call, outputs)
        if self._log is None or table.id is None:
            return
        row_numbers = [rows_before + i for i in range(rows.count) if i not in rows.errors]
        self._log.put(
            LoggedCall(
                schema,
                call,
                outputs,
                (table.id,),
                (len(row_numbers),),
                (table.caller,),
                (deadlines.now() - table.started,),
                (time.time(),),
                row_numbers,
                arm,
            )
        )


class TablePredictions:
    """The predictions of one table.

    Attributes:
        id: their id; None if they are not logged.
        caller: name of the API key.
        started: when its handling began.
    """

    def __init__(
        self,
        predictions: Predictions,
        prediction_id: str | None,
        caller: str | None,
        recorded: bool,
    ) -> None:
        self.id = prediction_id
        self.caller = caller
        self.started = deadlines.now()
        self._predictions = predictions
        self._recorded = recorded

    def record(
        self,
        schema: Schema,
        rows: TableRows,
        outputs: Mapping[str, Array],
        rows_before: int,
        arm: str | None,
    ) -> None:
        """Count and log some rows.

        Args:
            schema: schema of the version that predicted them.
            rows: the rows.
            outputs: outputs of the model.
            rows_before: number of the table's rows in earlier calls.
            arm: the arm of a rollout that answered.
        """
        if self._recorded:
            self._predictions.record_rows(schema, rows, outputs, self, rows_before, arm)


def log_nothing(shadow: Prediction | None) -> None:
    """Log nothing."""


def is_recorded(headers: Mapping[str, str]) -> bool:
    """Return whether a request's rows count for drift and are logged.

    Raises:
        ClientError: the header is neither "yes" nor "no".
    """
    value = headers.get(RECORD_HEADER, "yes")
    if value not in ("yes", "no"):
        raise ClientError(f'X-Prediction-Record: expected yes or no, got "{value[:40]}"')
    return value == "yes"


def _ids(jobs: Sequence[ApiJob], dialect_ids: Sequence[str | None] | None) -> list[str]:
    """Return the id of each request: its X-Request-ID, its dialect's id, or a new one."""
    generator = new_ids()
    ids = []
    for index, job in enumerate(jobs):
        headers = job.request.headers
        prediction_id = read_request_id(headers) if "x-request-id" in headers else None
        if prediction_id is None and dialect_ids is not None:
            prediction_id = dialect_ids[index]
            if prediction_id is not None and not is_id(prediction_id):
                prediction_id = None
        ids.append(next(generator) if prediction_id is None else prediction_id)
    return ids
