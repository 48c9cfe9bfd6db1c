"""The drift section of `/stats`, computed from the counters."""

from __future__ import annotations

import numpy as np

from client.codecs import Call
from client.observability.drift_summary import drift_summary
from client.observability.metrics import Metrics
from tests.client import schemas
from tests.client.test_drift import numeric_schema


def test_most_drifted_column_comes_first() -> None:
    metrics, schema = Metrics(), numeric_schema()
    rows = np.zeros((3000, 3), np.float32)
    rows[:, 0] = np.linspace(-1, 2.5, 3000)
    rows[:, 1] = 9  # all above the edge 5
    predictions = {"probability": np.linspace(0, 0.8, 3000, dtype=np.float32)}
    metrics.drift.add(schema, Call("dense", {"features": rows}), predictions)
    summary = drift_summary(schema, metrics.samples())
    assert summary is not None
    assert (summary["version"], summary["rows"]) == (1, 3000)
    first, *others = summary["columns"]
    assert (first["column"], first["verdict"]) == ("b", "alarm")
    assert first["psi"] > first["limit"] > 0
    assert {column["column"]: column["verdict"] for column in others} == {
        "a": "ok",
        "": "ok",
        "c": "too few rows",  # a single bin cannot show drift
    }


def test_version_without_a_reference_has_no_summary() -> None:
    assert drift_summary(schemas.numeric("a", "b", "c"), Metrics().samples()) is None
