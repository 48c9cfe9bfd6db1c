"""Drift: rows counted per bin of the model's reference, and what follows from the counts."""

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

NUMBERS = schemas.numeric("a", "b", "c")


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


def referring(schema: Schema, *columns: Mapping[str, Any], **more: Any) -> Schema:
    """The same model, but it knows how its training rows are distributed."""
    reference = {
        "format": 1,
        "rows": 1000,
        "positive_rate": 0.5,
        "probability": {"edges": [0.25, 0.5], "shares": [0.3, 0.3, 0.4]},
        "columns": columns,
        **more,
    }
    assert schema.description is not None
    return replace(schema, description=replace(schema.description, reference=json.dumps(reference)))


def of_numbers() -> Schema:
    return referring(
        NUMBERS, numeric_bins("a", [0.1, 1.0]), numeric_bins("b", [5.0]), numeric_bins("c", [])
    )


class Counting:
    """Counts of one application, as Prometheus sees them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.labels = ("model", "version", "column", "bin")
        self.counter = Counter("rows", "", self.labels, registry=registry)
        self.counts = DriftCounts(self.counter)

    def found(self, column: str) -> dict[str, int]:
        """Return the counts of a column that are not 0."""
        self.counts.publish()
        samples = next(iter(self.counter.collect())).samples
        return {
            sample.labels["bin"]: int(sample.value)
            for sample in samples
            if sample.labels["column"] == column and sample.name == "rows_total" and sample.value
        }


def outputs(*probabilities: float) -> dict[str, Any]:
    return {"probability": np.array(probabilities, np.float32)}


@pytest.mark.parametrize("form", ["dense", "serving_default"])
def test_rows_are_counted_in_the_bins_of_training(form: str) -> None:
    rows = np.array(
        # 0.1 as float32 is more than the edge 0.1, and yet in the bin below, as in training.
        [[0.1, 5, 1], [0.11, 5.1, 2], [1, 4, 3], [2, np.inf, -np.inf], [np.nan, 0, 0]],
        np.float32,
    )
    inputs = {"features": rows} if form == "dense" else dict(zip("abc", rows.T, strict=True))
    counting = Counting()
    for _ in range(300):  # more than are counted at once
        answers = outputs(0.25, 0.3, 0.5, 0.6, np.nan)
        counting.counts.add(of_numbers(), Call(form, inputs), answers)
    assert counting.found("a") == {"0": 300, "1": 600, "2": 300, "missing": 300}
    assert counting.found("b") == {"0": 900, "1": 600}
    assert counting.found("c") == {"0": 1500}
    assert counting.found("") == {"0": 300, "1": 600, "2": 300, "missing": 300}


def test_categories_booleans_integers_and_dates_are_counted() -> None:
    schema = referring(
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
    counting = Counting()
    for inputs in calls:
        counting.counts.add(schema, Call("serving_default", inputs), outputs(0.1, 0.1, 0.1))
    assert counting.found("size") == {"0": 2, "1": 2, "missing": 2}
    assert counting.found("city") == {"1": 2, "missing": 2, "other": 2}
    assert counting.found("garden") == {"1": 2, "missing": 2, "other": 2}
    assert counting.found("rooms") == {"1": 2, "missing": 2, "other": 2}
    assert counting.found("balcony") == {"0": 1, "1": 3, "missing": 2}
    assert counting.found("district") == {}  # not in the reference
    assert counting.found("income") == {}


def test_counts_equal_those_of_numpy_on_random_rows() -> None:
    generator = np.random.default_rng(0)
    edges = [sorted(generator.normal(size=n).astype(np.float32).tolist()) for n in (9, 3, 6)]
    schema = referring(NUMBERS, *(numeric_bins(n, e) for n, e in zip("abc", edges, strict=True)))
    rows = generator.normal(size=(3000, 3)).astype(np.float32)
    rows[generator.random(rows.shape) < 0.1] = np.nan
    counting = Counting()
    for some in np.split(rows, [1, 2, 600, 2800]):
        counting.counts.add(schema, Call("dense", {"features": some}), {})
    for place, name in enumerate("abc"):
        values = rows[:, place]
        bins = np.searchsorted(edges[place], values[~np.isnan(values)])
        expected = {str(i): int(n) for i, n in enumerate(np.bincount(bins)) if n}
        assert counting.found(name) == expected | {"missing": int(np.isnan(values).sum())}


def test_explanations_and_models_without_a_reference_are_not_counted() -> None:
    counting = Counting()
    call = Call("dense", {"features": np.zeros((1, 3), np.float32)})
    counting.counts.add(NUMBERS, call, outputs(0.5))
    counting.counts.add(of_numbers(), call._replace(signature_name="explain"), {})
    assert counting.found("a") == {}


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
def test_a_reference_that_cannot_be_read_is_left_alone(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert NUMBERS.description is not None
    schema = replace(NUMBERS, description=replace(NUMBERS.description, reference=text))
    assert load_reference(schema) is None
    assert "the reference cannot be read" in caplog.text


def test_at_most_200_columns_of_12_bins_become_time_series() -> None:
    wide = schemas.numeric(*(f"c{i}" for i in range(250)))
    schema = referring(
        wide,
        numeric_bins("c0", list(range(20))),
        *(numeric_bins(f"c{i}", list(range(9))) for i in range(1, 250)),
    )
    reference = load_reference(schema)
    assert reference is not None
    assert [len(column.bins) for column in reference.columns[1:]] == [12] * 199


# The statistics.


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 11, 30])
@pytest.mark.parametrize("probability", [0.5, 0.99, 0.9999, 1 - 0.01 / 201])
def test_quantiles_of_chi_square_are_exact(probability: float, degrees: int) -> None:
    found = drift.chi_square_quantile(probability, degrees)
    assert found == pytest.approx(stats.chi2.ppf(probability, degrees), rel=1e-9)


def test_the_statistics_equal_an_offline_computation() -> None:
    counts, shares = np.array([10, 40, 50, 0, 0]), np.array([0.3, 0.3, 0.3, 0.1, 0.0])
    p = (np.array([10, 40, 50, 0]) + 0.5) / 102
    q = (np.array([300, 300, 300, 100]) + 0.5) / 1002
    found = drift.assess_shift(counts, shares, 1000, columns=7)
    assert found.psi == pytest.approx(sum((p - q) * np.log(p / q)), abs=1e-12)
    assert found.js == pytest.approx(jensenshannon(p, q, base=2), abs=1e-12)
    limit = stats.chi2.ppf(1 - 0.01 / 7, 3) * (1 / 100 + 1 / 1000) * (1 + 4 / 100)
    assert found.limit == pytest.approx(limit, rel=1e-9)
    expected = stats.chi2_contingency([[10, 40, 50, 0], [300, 300, 300, 100]], correction=False)
    assert drift.chi_square(counts, shares, 1000) == pytest.approx(expected.statistic)
    assert drift.kolmogorov_smirnov(counts, shares) == pytest.approx(0.2)


def test_a_verdict_needs_a_shift_and_enough_rows() -> None:
    same, other = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    assert drift.assess_shift(1000 * same, same, 1000).verdict == "ok"
    assert drift.assess_shift(1000 * other, same, 1000).verdict == "alarm"
    assert drift.assess_shift(1000 * np.array([0.68, 0.32]), same, 1000).verdict == "warn"
    # Twenty rows may look like that by chance.
    assert (
        drift.assess_shift(20 * np.array([0.7, 0.3]), same, 1000, columns=30).verdict
        == "too few rows"
    )
    assert drift.assess_shift(np.array([0, 0]), same, 1000).verdict == "too few rows"


@pytest.mark.parametrize(("rows", "trained"), [(100, 455), (1000, 455), (100_000, 100_000)])
def test_undrifted_windows_alarm_in_one_of_a_hundred(rows: int, trained: int) -> None:
    generator = np.random.default_rng(rows + trained)
    alarms = 0
    for _ in range(250):  # the jobs' test, of the same statistics, simulates more
        shares = generator.multinomial(trained, [0.1] * 10, size=30) / trained
        counts = generator.multinomial(rows, [0.1] * 10, size=30)
        found = [drift.assess_shift(*of, trained, 30) for of in zip(counts, shares, strict=True)]
        alarms += any(one.verdict in ("warn", "alarm") for one in found)
    assert alarms <= 8  # 2.5 are expected at most; more than 8 happen by chance once in 900 times


def test_a_reference_with_too_many_probability_bins_is_not_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    probability = {"edges": list(range(1, 11)), "shares": [1 / 11] * 11}
    schema = referring(NUMBERS, numeric_bins("a", [1.0]), probability=probability)
    assert load_reference(schema) is None
    assert "probability: expected at most 10 bins, got 11" in caplog.text
    call = Call("dense", {"features": np.zeros((1, 3), np.float32)})
    counting = Counting()
    counting.counts.add(schema, call, outputs(0.5))
    assert counting.found("a") == {}
