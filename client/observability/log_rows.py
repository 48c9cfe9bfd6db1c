"""Rows of the prediction log: one JSON object per row, from a call's arrays.

docs/client.md describes the format. Whole arrays are encoded at once, as in responses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from itertools import chain, compress, repeat
from typing import NamedTuple

import numpy as np
import orjson

from client.codecs.batches import Call
from client.codecs.json_outputs import encode_column, encode_objects
from client.observability.prediction_ids import is_sampled
from client.serving.columns import Column
from client.serving.columns.base import MISSING_INTEGER
from client.serving.columns.date import format_days
from client.serving.schema import Schema
from client.serving.tensors import Array

# One text for all rows, or one per row.
Piece = bytes | list[bytes]

FORMAT = 1
MAX_MERGED_ROWS = 128
PROBABILITY, LABEL = "probability", "label"
NULL = b"null"
_MISSING_INTEGER = str(MISSING_INTEGER).encode()
_BOOLEANS = {-2: NULL, -1: NULL, 0: b"false", 1: b"true"}


class ShadowAnswer(NamedTuple):
    """The answer of a shadow version to the same rows."""

    version: int
    outputs: Mapping[str, Array]


class LoggedCall(NamedTuple):
    """An answered call, and the requests that shared it.

    Attributes:
        schema: schema of the version that answered.
        call: the call; its arrays are not copied and must not change.
        outputs: outputs of the model.
        ids: id of each request.
        rows: number of rows of each request; None if they cannot be counted.
        callers: name of each request's API key.
        seconds: duration of each request.
        times: when each request's call was answered, in seconds since 1970.
        row_indexes: index of each row in its request; None if each request starts with this call.
        arm: the arm of a rollout that answered.
        shadow: the shadow's answer.
    """

    schema: Schema
    call: Call
    outputs: Mapping[str, Array]
    ids: Sequence[str]
    rows: Sequence[int] | None
    callers: Sequence[str | None]
    seconds: Sequence[float]
    times: Sequence[float]
    row_indexes: Sequence[int] | None = None
    arm: str | None = None
    shadow: ShadowAnswer | None = None

    @property
    def total_rows(self) -> int:
        """Number of rows."""
        return 1 if self.rows is None else sum(self.rows)

    def sampled_rows(self, share: float) -> int:
        """Return the number of rows if only a share of the requests is sampled."""
        if share >= 1:
            return self.total_rows
        rows = (1,) if self.rows is None else self.rows
        return sum(compress(rows, self._sample_mask(share)))

    def sample(self, share: float) -> LoggedCall | None:
        """Return the call with only a share of its requests; None if it is empty."""
        if share >= 1:
            return self
        request_mask = self._sample_mask(share)
        if self.rows is None or all(request_mask):
            return self if any(request_mask) else None
        row_mask = np.repeat(np.array(request_mask), self.rows)
        if not row_mask.any():
            return None

        def select(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {name: array[row_mask] for name, array in arrays.items()}

        shadow = self.shadow
        return self._replace(
            call=self.call._replace(inputs=select(self.call.inputs)),
            outputs=select(self.outputs),
            ids=list(compress(self.ids, request_mask)),
            rows=list(compress(self.rows, request_mask)),
            callers=list(compress(self.callers, request_mask)),
            seconds=list(compress(self.seconds, request_mask)),
            times=list(compress(self.times, request_mask)),
            shadow=None if shadow is None else shadow._replace(outputs=select(shadow.outputs)),
        )

    def _sample_mask(self, share: float) -> list[bool]:
        return [is_sampled(prediction_id, share) for prediction_id in self.ids]


def group_calls(calls: Iterable[LoggedCall]) -> Iterator[list[LoggedCall]]:
    """Yield groups of consecutive calls that `merge_calls` can merge."""
    group: list[LoggedCall] = []
    rows = 0
    group_key: tuple[object, ...] | None = None
    for call in calls:
        key = _merge_key(call)
        if group and (rows + call.total_rows > MAX_MERGED_ROWS or key is None or key != group_key):
            yield group
            group, rows = [], 0
        group_key = key
        group.append(call)
        rows += call.total_rows
    if group:
        yield group


def merge_calls(calls: Sequence[LoggedCall]) -> LoggedCall:
    """Merge calls into one, since encoding has a cost per call."""
    first = calls[0]
    if len(calls) == 1:
        return first

    def join(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        return {name: np.concatenate([arrays[name] for arrays in parts]) for name in parts[0]}

    return first._replace(
        call=first.call._replace(inputs=join([logged.call.inputs for logged in calls])),
        outputs=join([logged.outputs for logged in calls]),
        ids=[prediction_id for logged in calls for prediction_id in logged.ids],
        rows=[rows for logged in calls for rows in logged.rows or ()],
        callers=[caller for logged in calls for caller in logged.callers],
        seconds=[seconds for logged in calls for seconds in logged.seconds],
        times=[time for logged in calls for time in logged.times],
    )


def _merge_key(logged: LoggedCall) -> tuple[object, ...] | None:
    """Return a key that is equal for calls that can be merged; None if this one cannot.

    The arrays of merged calls have the same names, types and inner dimensions.
    """
    if logged.row_indexes is not None or logged.shadow is not None or logged.rows is None:
        return None
    rows, layout = logged.total_rows, []
    for arrays in (logged.call.inputs, logged.outputs):
        for name, array in arrays.items():
            if not array.ndim or len(array) != rows:
                return None
            layout.append((name, array.dtype, array.shape[1:]))
    return logged.schema, logged.call.signature_name, logged.arm, layout


def encode_lines(logged: LoggedCall, share: float, leave_out: Collection[str]) -> bytes:
    """Return the log lines of an answered call, one per row.

    Args:
        logged: the call.
        share: the share of the requests that is logged.
        leave_out: names of columns to leave out.
    """
    schema, rows, name = logged.schema, logged.rows, logged.call.signature_name
    inputs, outputs, shadow = logged.call.inputs, logged.outputs, logged.shadow
    if rows is None or not all(a.ndim and len(a) == sum(rows) for a in outputs.values()):
        # The call is one row, with whole arrays as values.
        rows = (1,)
        inputs = {name: array[np.newaxis] for name, array in inputs.items()}
        outputs = {name: array[np.newaxis] for name, array in outputs.items()}
        if shadow is not None:
            arrays = {name: array[np.newaxis] for name, array in shadow.outputs.items()}
            shadow = shadow._replace(outputs=arrays)
    times = {time: orjson.dumps(_format_time(time)) for time in set(logged.times)}
    fields = {
        "model": schema.model,
        "version": schema.version,
        "arm": logged.arm,
        "share": share,
    }
    row_indexes = logged.row_indexes or chain.from_iterable(map(range, rows))
    pieces: list[Piece] = [
        b'{"format":%d,"id":' % FORMAT,
        _repeat_by_rows([orjson.dumps(prediction_id) for prediction_id in logged.ids], rows),
        b',"row":',
        [b"%d" % index for index in row_indexes],
        b',"time":',
        _repeat_by_rows([times[time] for time in logged.times], rows),
        b"," + orjson.dumps(fields)[1:-1] + b',"caller":',
        _repeat_by_rows([orjson.dumps(caller) for caller in logged.callers], rows),
        b',"columns":{',
    ]
    separator = b""
    for column, values in _encode_columns(schema, name, inputs, leave_out).items():
        pieces += [separator + orjson.dumps(column) + b":", values]
        separator = b","
    pieces += [b"}", *_encode_answer(schema, name, outputs), *_encode_shadow(schema, name, shadow)]
    seconds = _repeat_by_rows([b"%.6f" % seconds for seconds in logged.seconds], rows)
    return _join([*pieces, b',"seconds":', seconds, b"}\n"])


def _join(pieces: Sequence[Piece]) -> bytes:
    """Concatenate the pieces of each row."""
    columns = [repeat(piece) if isinstance(piece, bytes) else piece for piece in pieces]
    # Three times as fast as formatting with %.
    return b"".join(map(b"".join, zip(*columns, strict=False)))


def _repeat_by_rows(values: list[bytes], rows: Sequence[int]) -> list[bytes]:
    """Repeat each request's value for its rows."""
    if len(values) == sum(rows):
        return values
    return list(chain.from_iterable(map(repeat, values, rows)))


def _encode_columns(
    schema: Schema, signature_name: str, inputs: Mapping[str, Array], leave_out: Collection[str]
) -> dict[str, list[bytes]]:
    """Return the JSON of each value by column."""
    columns_by_input = schema.input_columns.get(signature_name)
    if columns_by_input is None:
        return {
            name: encode_column(name, array)
            for name, array in inputs.items()
            if name not in leave_out
        }
    encoded: dict[str, list[bytes]] = {}
    for name, columns in columns_by_input.items():
        array = inputs[name]
        if len(columns) == 1:
            flat = array.reshape(-1)
            texts = [[] if columns[0].name in leave_out else _encode_column(columns[0], flat)]
        else:
            texts = _encode_matrix(columns, array)
        for column, values in zip(columns, texts, strict=True):
            if column.name not in leave_out:
                encoded[column.name] = values
    return encoded


def _encode_matrix(columns: Sequence[Column], matrix: Array) -> list[list[bytes]]:
    """Return the JSON of each value by column, encoded at once."""
    if any(column.kind == "date" for column in columns) or matrix.dtype.hasobject:
        return [_encode_column(column, matrix[:, i]) for i, column in enumerate(columns)]
    flat = encode_column("", matrix.reshape(-1))
    return [flat[i :: len(columns)] for i in range(len(columns))]


def _encode_column(column: Column, array: Array) -> list[bytes]:
    """Return the JSON of each value of a column, in the form of requests."""
    if column.kind == "date" and array.dtype.kind == "f":
        return [NULL if days != days else _encode_date(days) for days in array.tolist()]
    if column.kind == "boolean" and array.dtype == np.int8:
        return [_BOOLEANS[value] for value in array.tolist()]
    texts = encode_column("", array)
    if array.dtype.kind not in "Oi":
        return texts
    missing = b'""' if array.dtype.kind == "O" else _MISSING_INTEGER
    return [NULL if text == missing else text for text in texts] if missing in texts else texts


def _encode_answer(
    schema: Schema, signature_name: str, outputs: Mapping[str, Array]
) -> list[Piece]:
    """Return the pieces of the prediction."""
    if not {PROBABILITY, LABEL} <= schema.signatures[signature_name].outputs.keys():
        return [b',"outputs":', encode_objects(outputs)]
    # A request may leave an output out.
    probability, label = (
        encode_column(name, outputs[name]) if name in outputs else NULL
        for name in (PROBABILITY, LABEL)
    )
    return [b',"probability":', probability, b',"label":', label]


def _encode_shadow(schema: Schema, signature_name: str, shadow: ShadowAnswer | None) -> list[Piece]:
    if shadow is None:
        return [b',"shadow":null']
    answer = _encode_answer(schema, signature_name, shadow.outputs)
    return [b',"shadow":{"version":%d' % shadow.version, *answer, b"}"]


@lru_cache(maxsize=2**16)
def _encode_date(days: float) -> bytes:
    return orjson.dumps(format_days(days))


def _format_time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
