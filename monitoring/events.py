"""CloudEvents of predictions, in the form of KServe's inference logger.

A request and its response are two events with the same id, as in KServe (pkg/logger/worker.go).
Attributes travel as headers: the binary mode of the CloudEvents HTTP binding, version 1.0.
"""

from __future__ import annotations

import string
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"
# Rows of one request that share an event.
MAX_ROWS = 100
# Facts that the rows of one event share.
SHARED = ("id", "model", "version", "arm", "share", "caller", "time")
# Other characters of header values are percent-encoded, as the HTTP binding prescribes.
_SAFE = "".join(set(string.printable) - set(string.whitespace) - set('"%'))

Row = Mapping[str, Any]


class Event(NamedTuple):
    """An HTTP request: its headers and its body."""

    headers: Mapping[str, str]
    body: bytes


def grouped(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows of a segment in groups that share an event: consecutive ones of a request."""
    group: list[Row] = []
    for row in rows:
        if group and (len(group) == MAX_ROWS or not _follows(group[-1], row)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def events(rows: Sequence[Row], namespace: str) -> tuple[Event, Event]:
    """Return the events of the request and the response of a group of rows.

    Raises:
        KeyError, TypeError: the rows are not of a prediction log.
    """
    first = rows[0]
    model, version = str(first["model"]), int(first["version"])
    attributes = {
        "specversion": "1.0",
        # As in KServe, the id of the request. A later part of a long request adds its first row.
        "id": str(first["id"]) + (f"/{first['row']}" if first["row"] else ""),
        "source": f"/v1/models/{urllib.parse.quote(model)}/versions/{version}",
        "time": str(first["time"]),
        "inferenceservicename": model,
        "namespace": namespace,
        "component": "predictor",
        "endpoint": "canary" if first.get("arm") == "canary" else "default",
        "modelversion": str(version),
        "share": repr(float(first["share"])),
        **{name: str(first[name]) for name in ("arm", "caller") if first.get(name) is not None},
    }
    instances = [row["columns"] for row in rows]
    predictions = [_prediction(row) for row in rows]
    return (
        _event(REQUEST, attributes, {"instances": instances}),
        _event(RESPONSE, attributes, {"predictions": predictions}),
    )


def _follows(before: Row, row: Row) -> bool:
    return bool(
        all(before.get(name) == row.get(name) for name in SHARED)
        and row.get("row") == before["row"] + 1
    )


def _prediction(row: Row) -> Any:
    if row.get("outputs") is not None:
        return row["outputs"]
    return {"probability": row.get("probability"), "label": row.get("label")}


def _event(kind: str, attributes: Mapping[str, str], data: Any) -> Event:
    headers = {
        f"ce-{name}": urllib.parse.quote(value, safe=_SAFE)
        for name, value in {**attributes, "type": kind}.items()
    }
    return Event({**headers, "Content-Type": "application/json"}, orjson.dumps(data))
