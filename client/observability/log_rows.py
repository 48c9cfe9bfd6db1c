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
from client.serving.columns.date import text_of
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
        places: index of each row in its request; None if each request starts with this call.
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
    places: Sequence[int] | None = None
    arm: str | None = None
    shadow: ShadowAnswer | None = None

    @property
    def total_rows(self) -> int:
        """Number of rows."""
        return 1 if self.rows is None else sum(self.rows)

    def sampled_rows(self, share: float) -> int:
        """Return the number of rows that belong to a share of the requests."""
        if share >= 1:
            return self.total_rows
        rows = (1,) if self.rows is None else self.rows
        return sum(count for count, kept in zip(rows, self._sampled(share), strict=True) if kept)

    def sample(self, share: float) -> LoggedCall | None:
        """Return only the requests that belong to a share of all; None if there are none."""
        if share >= 1:
            return self
        kept = self._sampled(share)
        if self.rows is None or all(kept):
            return self if any(kept) else None
        mask = np.repeat(np.array(kept), self.rows)
        if not mask.any():
            return None

        def some(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {name: array[mask] for name, array in arrays.items()}

        shadow = self.shadow
        return self._replace(
            call=self.call._replace(inputs=some(self.call.inputs)),
            outputs=some(self.outputs),
            ids=list(compress(self.ids, kept)),
            rows=list(compress(self.rows, kept)),
            callers=list(compress(self.callers, kept)),
            seconds=list(compress(self.seconds, kept)),
            times=list(compress(self.times, kept)),
            shadow=None if shadow is None else shadow._replace(outputs=some(shadow.outputs)),
        )

    def _sampled(self, share: float) -> list[bool]:
        return [is_sampled(one, share) for one in self.ids]


def grouped(calls: Iterable[LoggedCall]) -> Iterator[list[LoggedCall]]:
    """Yield consecutive calls in groups that `merged` can make one of."""
    group: list[LoggedCall] = []
    rows = 0
    shared: tuple[object, ...] | None = None
    for call in calls:
        own = _common(call)
        if group and (rows + call.total_rows > MAX_MERGED_ROWS or own is None or own != shared):
            yield group
            group, rows = [], 0
        shared = own
        group.append(call)
        rows += call.total_rows
    if group:
        yield group


def merged(calls: Sequence[LoggedCall]) -> LoggedCall:
    """Return one call with the requests of several: a call costs more than its rows."""
    first = calls[0]
    if len(calls) == 1:
        return first

    def joined(arrays: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        return {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}

    return first._replace(
        call=first.call._replace(inputs=joined([one.call.inputs for one in calls])),
        outputs=joined([one.outputs for one in calls]),
        ids=[identity for one in calls for identity in one.ids],
        rows=[rows for one in calls for rows in one.rows or ()],
        callers=[caller for one in calls for caller in one.callers],
        seconds=[seconds for one in calls for seconds in one.seconds],
        times=[moment for one in calls for moment in one.times],
    )


def _common(logged: LoggedCall) -> tuple[object, ...] | None:
    """Return what calls must have in common to be merged; None if this one cannot be.

    Only the values of requests and rows may differ; the arrays' names, types and inner dimensions
    must not.
    """
    if logged.places is not None or logged.shadow is not None or logged.rows is None:
        return None
    rows, layout = logged.total_rows, []
    for arrays in (logged.call.inputs, logged.outputs):
        for name, array in arrays.items():
            if not array.ndim or len(array) != rows:
                return None
            layout.append((name, array.dtype, array.shape[1:]))
    return logged.schema, logged.call.signature_name, logged.arm, layout


def lines_of(logged: LoggedCall, share: float, leave_out: Collection[str]) -> bytes:
    """Return the lines of the rows of an answered call.

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
            whole = {name: array[np.newaxis] for name, array in shadow.outputs.items()}
            shadow = shadow._replace(outputs=whole)
    times = {one: orjson.dumps(_time(one)) for one in set(logged.times)}
    facts = {
        "model": schema.model,
        "version": schema.version,
        "arm": logged.arm,
        "share": share,
    }
    places = logged.places or chain.from_iterable(map(range, rows))
    pieces: list[Piece] = [
        b'{"format":%d,"id":' % FORMAT,
        _of_rows([orjson.dumps(one) for one in logged.ids], rows),
        b',"row":',
        [b"%d" % place for place in places],
        b',"time":',
        _of_rows([times[one] for one in logged.times], rows),
        b"," + orjson.dumps(facts)[1:-1] + b',"caller":',
        _of_rows([orjson.dumps(one) for one in logged.callers], rows),
        b',"columns":{',
    ]
    before = b""
    for column, values in _columns(schema, name, inputs, leave_out).items():
        pieces += [before + orjson.dumps(column) + b":", values]
        before = b","
    pieces += [b"}", *_answer(schema, name, outputs), *_shadow(schema, name, shadow)]
    pieces += [b',"seconds":', _of_rows([b"%.6f" % one for one in logged.seconds], rows), b"}\n"]
    return _joined(pieces)


def _joined(pieces: Sequence[Piece]) -> bytes:
    """Concatenate the pieces of each row."""
    columns = [repeat(piece) if isinstance(piece, bytes) else piece for piece in pieces]
    # Three times as fast as formatting with %.
    return b"".join(map(b"".join, zip(*columns, strict=False)))


def _of_rows(values: list[bytes], rows: Sequence[int]) -> list[bytes]:
    """Return the value of each row's request."""
    if len(values) == sum(rows):
        return values
    return list(chain.from_iterable(map(repeat, values, rows)))


def _columns(
    schema: Schema, signature_name: str, inputs: Mapping[str, Array], leave_out: Collection[str]
) -> dict[str, list[bytes]]:
    """Return the JSON of each value by column."""
    described = schema.described.get(signature_name)
    if described is None:
        return {
            name: encode_column(name, array)
            for name, array in inputs.items()
            if name not in leave_out
        }
    found: dict[str, list[bytes]] = {}
    for name, columns in described.items():
        array = inputs[name]
        if len(columns) == 1:
            texts = [[] if columns[0].name in leave_out else _texts(columns[0], array.reshape(-1))]
        else:
            texts = _matrix_texts(columns, array)
        for column, values in zip(columns, texts, strict=True):
            if column.name not in leave_out:
                found[column.name] = values
    return found


def _matrix_texts(columns: Sequence[Column], matrix: Array) -> list[list[bytes]]:
    """Return the JSON of each value by column, encoded at once."""
    if any(column.kind == "date" for column in columns) or matrix.dtype.hasobject:
        return [_texts(column, matrix[:, i]) for i, column in enumerate(columns)]
    flat = encode_column("", matrix.reshape(-1))
    return [flat[i :: len(columns)] for i in range(len(columns))]


def _texts(column: Column, array: Array) -> list[bytes]:
    """Return the JSON of each value of a column, as requests have it."""
    if column.kind == "date" and array.dtype.kind == "f":
        return [NULL if days != days else _date(days) for days in array.tolist()]
    if column.kind == "boolean" and array.dtype == np.int8:
        return [_BOOLEANS[value] for value in array.tolist()]
    texts = encode_column("", array)
    if array.dtype.kind not in "Oi":
        return texts
    missing = b'""' if array.dtype.kind == "O" else _MISSING_INTEGER
    return [NULL if text == missing else text for text in texts] if missing in texts else texts


def _answer(schema: Schema, signature_name: str, outputs: Mapping[str, Array]) -> list[Piece]:
    """Return the pieces of the prediction."""
    if not {PROBABILITY, LABEL} <= schema.signatures[signature_name].outputs.keys():
        return [b',"outputs":', encode_objects(outputs)]
    # A request may leave an output out.
    probability, label = (
        encode_column(name, outputs[name]) if name in outputs else NULL
        for name in (PROBABILITY, LABEL)
    )
    return [b',"probability":', probability, b',"label":', label]


def _shadow(schema: Schema, signature_name: str, shadow: ShadowAnswer | None) -> list[Piece]:
    if shadow is None:
        return [b',"shadow":null']
    answer = _answer(schema, signature_name, shadow.outputs)
    return [b',"shadow":{"version":%d' % shadow.version, *answer, b"}"]


@lru_cache(maxsize=2**16)
def _date(days: float) -> bytes:
    return orjson.dumps(text_of(days))


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
