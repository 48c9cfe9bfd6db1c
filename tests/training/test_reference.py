"""The reference and the golden rows of a model, against numpy and against a running service."""

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


def table(rows: int = ROWS) -> pl.DataFrame:
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


def fitted(memory: int = 2 << 30) -> Candidate:
    # The training rows are known beforehand.
    frame = table().with_columns(part=pl.Series(["train", "test", "train"] * (ROWS // 3)))
    source = Source("rows", [FrameFile("rows", frame)])
    choice = Choice("y", split_column="part")
    return fit(source, choice, FitSettings(optimizer="newton"), memory=memory)


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fitted()


def by_name(reference: dict[str, Any]) -> dict[str, Any]:
    return {column["name"]: column for column in reference["columns"]}


def test_shares_are_those_of_the_training_rows(candidate: Candidate) -> None:
    reference = json.loads(candidate.model.reference)
    columns = by_name(reference)
    training = table()[[i for i in range(ROWS) if i % 3 != 1]]
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


def test_rows_on_disk_give_the_same(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_store, "MAX_BLOCK_ROWS", 16_384)
    monkeypatch.setattr(feature_blocks, "MAX_BLOCK_VALUES", 1 << 17)  # blocks are cut into pieces
    on_disk = json.loads(fitted(memory=1).model.reference)
    assert sum(on_disk["probability"]["shares"]) == pytest.approx(1, abs=1e-12)
    in_memory, streamed = map(by_name, (json.loads(candidate.model.reference), on_disk))
    for name, column in in_memory.items():
        contribution = column.pop("contribution")
        assert streamed[name].pop("contribution") == pytest.approx(contribution, abs=1e-4)
        assert streamed[name] == column


def test_few_distinct_probabilities_are_not_on_an_edge() -> None:
    """Float32 and float64 put the rows of a model of categories into the same bins."""
    source = Source("rows", [FrameFile("rows", table().select("city", "member", "y"))])
    candidate = fit(source, Choice("y"), FitSettings(optimizer="newton"))
    edges = json.loads(candidate.model.reference)["probability"]["edges"]
    assert len(edges) > 1
    probabilities = candidate.held_out.probabilities
    nearby = np.abs(probabilities[:, np.newaxis] / np.array(edges) - 1)
    assert nearby.min() > 1e-5


def test_wide_tables_have_a_bounded_reference_and_few_golden_rows() -> None:
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
def test_no_golden_row_is_a_whole_row(columns: int) -> None:
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


def test_golden_rows_hold_no_identity_and_are_served_as_trained(
    starter: Starter, tmp_path: Path
) -> None:
    source = Source("rows", [FrameFile("rows", table(3000))])
    models = tmp_path / "models"
    published = run(source, Choice("y"), FitSettings(), Target(models, "m"))
    assert published is not None
    stored = json.loads((published.version / "reference.json").read_text())
    server = starter.model_server("--model_name=m", f"--model_base_path={models / 'm'}")
    client = starter.client(server.address, CLIENT_MODEL="m")
    with ServingClient(server.address) as serving:
        description = serving.schema("m").description
    assert description is not None
    assert description.reference is not None
    assert description.golden is not None
    assert json.loads(description.reference) == stored
    golden = json.loads(description.golden)
    rows = golden["rows"]
    assert len(golden["probability"]) == 8
    assert any(value is None for values in rows.values() for value in values)
    together = table(3000).select("income", "stamp_ms").rows()
    assert not set(zip(rows["income"], rows["stamp_ms"], strict=True)) & set(together)

    reply = requests.post(f"{client.address}/predict", json={"inputs": rows}, timeout=20)
    assert reply.status_code == 200, reply.text
    np.testing.assert_allclose(
        reply.json()["outputs"]["probability"], golden["probability"], atol=2e-6
    )
    assert processes.training("verify", models, "--model=m").returncode == 0
