"""`/stats` in the OpenAPI document."""

from __future__ import annotations

from client.http import paths
from client.http.openapi.parts import get_operation, json_content, object_schema
from client.http.openapi.schemas import Json

COUNT: Json = {"type": "integer", "minimum": 0}
TEXT: Json = {"type": "string"}
NUMBER_OR_NULL: Json = {"type": ["number", "null"]}
COUNTS: Json = {"type": "object", "additionalProperties": COUNT}
OBJECT_OR_NULL: Json = {"type": ["object", "null"]}


def stats_operation() -> Json:
    """Return the operation of `/stats`."""
    version = object_schema(version=COUNT, state=TEXT, golden={"type": ["string", "null"]})
    server = object_schema(
        address=TEXT,
        state={"enum": ["answers", "left out", "unreachable"]},
        versions=_list(version),
    )
    arm = object_schema(
        version=COUNT,
        arm=TEXT,
        requests=COUNT,
        failed=COUNT,
        p50=NUMBER_OR_NULL,
        p99=NUMBER_OR_NULL,
    )
    stats = object_schema(
        model=TEXT,
        time={"type": "string", "format": "date-time"},
        requests=object_schema(
            total=COUNT, errors=COUNT, statuses=COUNTS, in_flight=COUNT, seconds=_seconds()
        ),
        calls=object_schema(total=COUNT, errors=COUNT, rows=COUNT, seconds=_seconds()),
        queue=object_schema(waiting=COUNT),
        servers=_list(server),
        arms=_list(arm),
        rollout=OBJECT_OR_NULL,
        drift=OBJECT_OR_NULL,
        log=OBJECT_OR_NULL,
        feedback={"type": "boolean"},
    )
    summary = "Get statistics of the service since its start, and the state of its servers"
    return get_operation(paths.STATS, "stats", summary, json_content(stats))


def _seconds() -> Json:
    return object_schema(
        p50=NUMBER_OR_NULL,
        p99=NUMBER_OR_NULL,
        count=COUNT,
        sum={"type": "number", "minimum": 0},
        bounds=_list({"type": "number"}),
        counts=_list(COUNT),
    )


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}
