"""A model's reference and golden rows, checked against numpy and a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import requests

from client import ServingClient
from tests.conftest import Starter
from tests.support import processes
from training.data import row_store
from training.data.reading import FrameFile, Source
from training.data.table import Choice
from training.fitting import feature_blocks
from training.pipeline import Candidate, Target, fit, run
from training.settings import FitSettings

ROWS = 30_000


def make_table(rows: int = ROWS) -> pl.DataFrame:
    random = np.random.default_rng(3)
    income = pl.Series(random.lognormal(10, 1, rows)).set(
        pl.Series(random.random(rows) < 0.1), None
    )
    city = pl.Series([f"city {n}" for n in random.geometric(0.1, rows).clip(1, 30)])
    visits = random.poisson(0.3, rows)
    logit = visits - 1 + (city == "city 1").to_numpy()
    return pl.DataFrame(
        {
            "income": income,
            "visits": visits,
            "stamp_ms": 1_700_000_000_000 + random.integers(0, 50_000, rows),
            "since": pl.Series(random.integers(15_000, 20_000, rows)).cast(pl.Int32).cast(pl.Date),
            "city": city.set(pl.Series(random.random(rows) < 0.3), None),
            "member": random.random(rows) < 0.4,
            "fixed": 7.5,
            "y": np.where(random.random(rows) < 1 / (1 + np.exp(-logit)), "yes", "no"),
        }
    )


def fit_candidate(memory: int = 2 << 30) -> Candidate:
    # A split column determines the training rows.
    frame = make_table().with_columns(part=pl.Series(["train", "test", "train"] * (ROWS // 3)))
    source = Source("rows", [FrameFile("rows", frame)])
    choice = Choice("y", split_column="part")
    return fit(source, choice, FitSettings(optimizer="newton"), memory=memory)


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fit_candidate()


def columns_by_name(reference: dict[str, Any]) -> dict[str, Any]:
    return {column["name"]: column for column in reference["columns"]}


def test_reference_matches_training_rows(candidate: Candidate) -> None:
    reference = json.loads(candidate.model.reference)
    columns = columns_by_name(reference)
    training = make_table()[[i for i in range(ROWS) if i % 3 != 1]]
    assert reference["format"] == 1
    assert reference["rows"] == len(training) == candidate.manifest.rows["train"]
    assert reference["positive_rate"] == pytest.approx((training["y"] == "yes").mean())
    for name, dtype in (("income", np.float32), ("stamp_ms", np.float64)):
        values = training[name].drop_nulls().to_numpy().astype(dtype).astype(np.float64)
        edges = columns[name]["edges"]
        assert len(edges) == 9
        np.testing.assert_array_equal(
            edges, np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
        )
        counts = np.bincount(np.searchsorted(edges, values), minlength=10)
        np.testing.assert_allclose(columns[name]["shares"], counts / len(training), atol=1e-12)
    assert columns["income"]["missing"] == training["income"].null_count() / len(training)
    days = training["since"].cast(pl.Int32).to_numpy()
    assert columns["since"]["shares"][0] == (days <= columns["since"]["edges"][0]).mean()
    assert columns["visits"]["edges"] == [0, 1]
    assert (columns["fixed"]["edges"], columns["fixed"]["shares"]) == ([], [1.0])
    city = training["city"]
    assert len(columns["city"]["values"]) == 10
    for value, share in zip(columns["city"]["values"], columns["city"]["shares"], strict=True):
        assert share == (city == value).sum() / len(training)
    assert columns["city"]["missing"] == city.null_count() / len(training)
    assert columns["member"]["values"] == ["false", "true"]
    for column in columns.values():
        total = sum(column["shares"]) + column["missing"] + column["other"]
        assert total == pytest.approx(1, abs=1e-12)
    assert columns["visits"]["contribution"] > columns["income"]["contribution"]
    assert sum(reference["probability"]["shares"]) == pytest.approx(1, abs=1e-12)


def test_reference_is_the_same_from_rows_on_disk(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_store, "MAX_BLOCK_ROWS", 16_384)
    monkeypatch.setattr(feature_blocks, "MAX_BLOCK_VALUES", 1 << 17)  # blocks are split
    on_disk = json.loads(fit_candidate(memory=1).model.reference)
    assert sum(on_disk["probability"]["shares"]) == pytest.approx(1, abs=1e-12)
    in_memory, from_disk = map(columns_by_name, (json.loads(candidate.model.reference), on_disk))
    for name, column in in_memory.items():
        contribution = column.pop("contribution")
        assert from_disk[name].pop("contribution") == pytest.approx(contribution, abs=1e-4)
        assert from_disk[name] == column


def test_probability_edges_lie_between_distinct_probabilities() -> None:
    """Otherwise float32 and float64 could put the same row into different bins."""
    source = Source("rows", [FrameFile("rows", make_table().select("city", "member", "y"))])
    candidate = fit(source, Choice("y"), FitSettings(optimizer="newton"))
    edges = json.loads(candidate.model.reference)["probability"]["edges"]
    assert len(edges) > 1
    probabilities = candidate.held_out.probabilities
    distances = np.abs(probabilities[:, np.newaxis] / np.array(edges) - 1)
    assert distances.min() > 1e-5


def test_wide_table_has_bounded_reference_and_few_golden_rows() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 3000))
    frame = pl.DataFrame(values.astype(np.float32), schema=[f"c{i}" for i in range(3000)])
    label = np.where(values[:, 7] + random.normal(size=300) / 3 > 0, "a", "b")
    source = Source("wide", [FrameFile("wide", frame.with_columns(y=pl.Series(label)))])
    candidate = fit(source, Choice("y"), FitSettings(l2=0.1))
    columns = json.loads(candidate.model.reference)["columns"]
    assert len(columns) == 200
    assert "c7" in [column["name"] for column in columns]
    assert len(candidate.model.reference) < 120_000
    assert len(json.loads(candidate.model.golden)["probability"]) == 6


@pytest.mark.parametrize("columns", [1, 2])
def test_golden_rows_are_not_table_rows(columns: int) -> None:
    values = np.random.default_rng(0).normal(size=(100, columns)).astype(np.float32)
    frame = pl.DataFrame(values, schema=["a", "b"][:columns]).with_columns(
        y=pl.Series(["u", "v"] * 50), part=pl.Series(["train"] * 97 + ["test"] * 3)
    )
    source = Source("rows", [FrameFile("rows", frame)])
    golden = fit(source, Choice("y", split_column="part"), FitSettings()).model.golden
    if columns == 1:
        assert golden == ""
    else:
        rows = json.loads(golden)["rows"]
        assert len(rows["a"]) == 8
        assert not set(zip(rows["a"], rows["b"], strict=True)) & set(map(tuple, values.tolist()))


def test_golden_rows_match_no_table_row_and_are_served_as_trained(
    starter: Starter, tmp_path: Path
) -> None:
    source = Source("rows", [FrameFile("rows", make_table(3000))])
    models = tmp_path / "models"
    published = run(source, Choice("y"), FitSettings(), Target(models, "m"))
    assert published is not None
    reference = json.loads((published.version / "reference.json").read_text())
    server = starter.model_server("--model_name=m", f"--model_base_path={models / 'm'}")
    client = starter.client(server.address, CLIENT_MODEL="m")
    with ServingClient(server.address) as serving:
        description = serving.schema("m").description
    assert description is not None
    assert description.reference is not None
    assert description.golden is not None
    assert json.loads(description.reference) == reference
    golden = json.loads(description.golden)
    rows = golden["rows"]
    assert len(golden["probability"]) == 8
    assert any(value is None for values in rows.values() for value in values)
    pairs = make_table(3000).select("income", "stamp_ms").rows()
    assert not set(zip(rows["income"], rows["stamp_ms"], strict=True)) & set(pairs)

    response = requests.post(f"{client.address}/predict", json={"inputs": rows}, timeout=20)
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(
        response.json()["outputs"]["probability"], golden["probability"], atol=2e-6
    )
    assert processes.training("verify", models, "--model=m").returncode == 0
