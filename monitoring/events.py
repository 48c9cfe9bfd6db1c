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
# Maximum number of rows per event.
MAX_ROWS = 100
# Fields that all rows of an event share.
SHARED_FIELDS = ("id", "model", "version", "arm", "share", "caller", "time")
# The HTTP binding requires other characters of header values to be percent-encoded.
_SAFE = "".join(set(string.printable) - set(string.whitespace) - set('"%'))

Row = Mapping[str, Any]


class Event(NamedTuple):
    """An HTTP request: its headers and its body."""

    headers: Mapping[str, str]
    body: bytes


def group_rows(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Group consecutive rows of the same request, up to `MAX_ROWS`, to share an event."""
    group: list[Row] = []
    for row in rows:
        if group and (len(group) == MAX_ROWS or not _follows(group[-1], row)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def build_events(rows: Sequence[Row], namespace: str) -> tuple[Event, Event]:
    """Return the request and response events for a group of rows.

    Raises:
        KeyError, TypeError: the rows are not from a prediction log.
    """
    first = rows[0]
    model, version = str(first["model"]), int(first["version"])
    attributes = {
        "specversion": "1.0",
        # The id of the request, as in KServe; later groups of it append their first row.
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


def _follows(previous: Row, row: Row) -> bool:
    return bool(
        all(previous.get(name) == row.get(name) for name in SHARED_FIELDS)
        and row.get("row") == previous["row"] + 1
    )


def _prediction(row: Row) -> Any:
    if row.get("outputs") is not None:
        return row["outputs"]
    return {"probability": row.get("probability"), "label": row.get("label")}


def _event(event_type: str, attributes: Mapping[str, str], data: Any) -> Event:
    headers = {
        f"ce-{name}": urllib.parse.quote(value, safe=_SAFE)
        for name, value in {**attributes, "type": event_type}.items()
    }
    return Event({**headers, "Content-Type": "application/json"}, orjson.dumps(data))
