"""Drift: row counts per bin of the model's reference, and their statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter
from scipy import stats
from scipy.spatial.distance import jensenshannon

from client.codecs import Call
from client.observability import drift
from client.observability.drift_counts import DriftCounts, load_reference
from client.serving.schema import Schema
from tests.client import schemas

NUMERIC = schemas.numeric("a", "b", "c")


def numeric_bins(name: str, edges: list[float], kind: str = "numeric") -> dict[str, Any]:
    shares = [1 / (len(edges) + 1)] * (len(edges) + 1)
    return {
        "name": name,
        "kind": kind,
        "edges": edges,
        "shares": shares,
        "missing": 0.0,
        "other": 0.0,
    }


def value_bins(name: str, values: list[str], kind: str = "categorical") -> dict[str, Any]:
    shares = [1 / len(values)] * len(values)
    return {
        "name": name,
        "kind": kind,
        "values": values,
        "shares": shares,
        "missing": 0.0,
        "other": 0.0,
    }


def with_reference(schema: Schema, *columns: Mapping[str, Any], **fields: Any) -> Schema:
    """Return the schema with a reference of these columns."""
    reference = {
        "format": 1,
        "rows": 1000,
        "positive_rate": 0.5,
        "probability": {"edges": [0.25, 0.5], "shares": [0.3, 0.3, 0.4]},
        "columns": columns,
        **fields,
    }
    assert schema.description is not None
    return replace(schema, description=replace(schema.description, reference=json.dumps(reference)))


def numeric_schema() -> Schema:
    return with_reference(
        NUMERIC, numeric_bins("a", [0.1, 1.0]), numeric_bins("b", [5.0]), numeric_bins("c", [])
    )


class ExportedCounts:
    """Drift counts, and the Prometheus counter that exports them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.labels = ("model", "version", "column", "bin")
        self.counter = Counter("rows", "", self.labels, registry=registry)
        self.counts = DriftCounts(self.counter)

    def by_bin(self, column: str) -> dict[str, int]:
        """Return the nonzero counts of a column."""
        self.counts.publish()
        samples = next(iter(self.counter.collect())).samples
        return {
            sample.labels["bin"]: int(sample.value)
            for sample in samples
            if sample.labels["column"] == column and sample.name == "rows_total" and sample.value
        }


def outputs(*probabilities: float) -> dict[str, Any]:
    return {"probability": np.array(probabilities, np.float32)}


@pytest.mark.parametrize("signature", ["dense", "serving_default"])
def test_rows_are_counted_in_the_training_bins(signature: str) -> None:
    rows = np.array(
        # 0.1 as float32 exceeds the edge 0.1, but is in the bin below it, as in training.
        [[0.1, 5, 1], [0.11, 5.1, 2], [1, 4, 3], [2, np.inf, -np.inf], [np.nan, 0, 0]],
        np.float32,
    )
    inputs = {"features": rows} if signature == "dense" else dict(zip("abc", rows.T, strict=True))
    exported = ExportedCounts()
    for _ in range(300):  # more than one block
        predictions = outputs(0.25, 0.3, 0.5, 0.6, np.nan)
        exported.counts.add(numeric_schema(), Call(signature, inputs), predictions)
    assert exported.by_bin("a") == {"0": 300, "1": 600, "2": 300, "missing": 300}
    assert exported.by_bin("b") == {"0": 900, "1": 600}
    assert exported.by_bin("c") == {"0": 1500}
    assert exported.by_bin("") == {"0": 300, "1": 600, "2": 300, "missing": 300}


def test_categories_booleans_and_integers_are_counted() -> None:
    schema = with_reference(
        schemas.mixed(),
        numeric_bins("size", [1.0]),
        value_bins("city", ["Basel", "Bern"]),
        value_bins("garden", ["false", "true"], "boolean"),
        value_bins("rooms", ["3", "2"]),
        value_bins("balcony", ["false", "true"], "boolean"),
    )
    calls = [
        {
            "size": np.array([1.0, 2.0, np.nan], np.float32),
            "income": np.zeros(3, np.float32),
            "city": np.array([b"Bern", b"", b"Paris"], object),
            "district": np.array([b"7", b"7", b"7"], object),
            "garden": np.array([b"true", b"", b"maybe"], object),
            "rooms": np.array([2, -(2**63), 99]),
            "balcony": balcony,
        }
        for balcony in (np.array([True, False, True]), np.array([1, -1, -2], np.int8))
    ]
    exported = ExportedCounts()
    for inputs in calls:
        exported.counts.add(schema, Call("serving_default", inputs), outputs(0.1, 0.1, 0.1))
    assert exported.by_bin("size") == {"0": 2, "1": 2, "missing": 2}
    assert exported.by_bin("city") == {"1": 2, "missing": 2, "other": 2}
    assert exported.by_bin("garden") == {"1": 2, "missing": 2, "other": 2}
    assert exported.by_bin("rooms") == {"1": 2, "missing": 2, "other": 2}
    assert exported.by_bin("balcony") == {"0": 1, "1": 3, "missing": 2}
    assert exported.by_bin("district") == {}  # not in the reference
    assert exported.by_bin("income") == {}


def test_counts_match_numpy_on_random_rows() -> None:
    generator = np.random.default_rng(0)
    edges = [sorted(generator.normal(size=n).astype(np.float32).tolist()) for n in (9, 3, 6)]
    schema = with_reference(
        NUMERIC, *(numeric_bins(n, e) for n, e in zip("abc", edges, strict=True))
    )
    rows = generator.normal(size=(3000, 3)).astype(np.float32)
    rows[generator.random(rows.shape) < 0.1] = np.nan
    exported = ExportedCounts()
    for block in np.split(rows, [1, 2, 600, 2800]):
        exported.counts.add(schema, Call("dense", {"features": block}), {})
    for index, name in enumerate("abc"):
        values = rows[:, index]
        bins = np.searchsorted(edges[index], values[~np.isnan(values)])
        expected = {str(i): int(n) for i, n in enumerate(np.bincount(bins)) if n}
        assert exported.by_bin(name) == expected | {"missing": int(np.isnan(values).sum())}


def test_explanations_and_models_without_a_reference_are_not_counted() -> None:
    exported = ExportedCounts()
    call = Call("dense", {"features": np.zeros((1, 3), np.float32)})
    exported.counts.add(NUMERIC, call, outputs(0.5))
    exported.counts.add(numeric_schema(), call._replace(signature_name="explain"), {})
    assert exported.by_bin("a") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"format": 2}',
        '{"format": 1, "rows": 3, "columns": [], "probability": {"edges": [1], "shares": [1]}}',
    ],
)
def test_invalid_reference_is_logged_and_ignored(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert NUMERIC.description is not None
    schema = replace(NUMERIC, description=replace(NUMERIC.description, reference=text))
    assert load_reference(schema) is None
    assert "the reference cannot be read" in caplog.text


def test_reference_is_limited_to_200_columns_of_12_bins() -> None:
    wide = schemas.numeric(*(f"c{i}" for i in range(250)))
    schema = with_reference(
        wide,
        numeric_bins("c0", list(range(20))),
        *(numeric_bins(f"c{i}", list(range(9))) for i in range(1, 250)),
    )
    reference = load_reference(schema)
    assert reference is not None
    assert [len(column.bins) for column in reference.columns[1:]] == [12] * 199


# Statistics.


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 11, 30])
@pytest.mark.parametrize("probability", [0.5, 0.99, 0.9999, 1 - 0.01 / 201])
def test_chi_square_quantiles_match_scipy(probability: float, degrees: int) -> None:
    quantile = drift.chi_square_quantile(probability, degrees)
    assert quantile == pytest.approx(stats.chi2.ppf(probability, degrees), rel=1e-9)


def test_statistics_match_an_offline_computation() -> None:
    counts, shares = np.array([10, 40, 50, 0, 0]), np.array([0.3, 0.3, 0.3, 0.1, 0.0])
    p = (np.array([10, 40, 50, 0]) + 0.5) / 102
    q = (np.array([300, 300, 300, 100]) + 0.5) / 1002
    shift = drift.assess_shift(counts, shares, 1000, columns=7)
    assert shift.psi == pytest.approx(sum((p - q) * np.log(p / q)), abs=1e-12)
    assert shift.js == pytest.approx(jensenshannon(p, q, base=2), abs=1e-12)
    limit = stats.chi2.ppf(1 - 0.01 / 7, 3) * (1 / 100 + 1 / 1000) * (1 + 4 / 100)
    assert shift.limit == pytest.approx(limit, rel=1e-9)
    expected = stats.chi2_contingency([[10, 40, 50, 0], [300, 300, 300, 100]], correction=False)
    assert drift.chi_square(counts, shares, 1000) == pytest.approx(expected.statistic)
    assert drift.kolmogorov_smirnov(counts, shares) == pytest.approx(0.2)


def test_verdict_needs_a_shift_and_enough_rows() -> None:
    same, other = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    assert drift.assess_shift(1000 * same, same, 1000).verdict == "ok"
    assert drift.assess_shift(1000 * other, same, 1000).verdict == "alarm"
    assert drift.assess_shift(1000 * np.array([0.68, 0.32]), same, 1000).verdict == "warn"
    # Twenty rows may be distributed like this by chance.
    assert (
        drift.assess_shift(20 * np.array([0.7, 0.3]), same, 1000, columns=30).verdict
        == "too few rows"
    )
    assert drift.assess_shift(np.array([0, 0]), same, 1000).verdict == "too few rows"


@pytest.mark.parametrize(("rows", "training_rows"), [(100, 455), (1000, 455), (100_000, 100_000)])
def test_false_alarm_rate_is_about_one_percent(rows: int, training_rows: int) -> None:
    generator = np.random.default_rng(rows + training_rows)
    alarms = 0
    for _ in range(250):  # tests/monitoring/test_drift.py simulates more
        shares = generator.multinomial(training_rows, [0.1] * 10, size=30) / training_rows
        counts = generator.multinomial(rows, [0.1] * 10, size=30)
        shifts = [
            drift.assess_shift(*pair, training_rows, 30)
            for pair in zip(counts, shares, strict=True)
        ]
        alarms += any(shift.verdict in ("warn", "alarm") for shift in shifts)
    assert alarms <= 8  # at most 2.5 are expected; 1 of 900 correct runs has more than 8


def test_reference_with_too_many_probability_bins_is_not_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    probability = {"edges": list(range(1, 11)), "shares": [1 / 11] * 11}
    schema = with_reference(numeric_schema(), numeric_bins("a", [1.0]), probability=probability)
    assert load_reference(schema) is None
    assert "probability: expected at most 10 bins, got 11" in caplog.text
    call = Call("dense", {"features": np.zeros((1, 3), np.float32)})
    exported = ExportedCounts()
    exported.counts.add(schema, call, outputs(0.5))
    assert exported.by_bin("a") == {}
