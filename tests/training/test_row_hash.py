"""A row's hash: golden values, and what it does not depend on."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.data.choose import Choice, choose_columns
from training.data.prepare import Roles, prepare
from training.data.reading import FrameFile, Source, open_source
from training.data.split import ROW_HASH, hash_numbers

ROWS = pl.DataFrame(
    {
        "amount": [1.0, -0.0, 0.1, None],
        "visits": [3, 2**40, -7, 0],
        "plan": ["a", "ü", None, "a"],
        "active": [True, False, True, True],
        "day": [datetime(2024, 3, 1) + timedelta(hours=h) for h in (0, 5, 10, 15)],
        "y": ["no", "yes", "no", "yes"],
    }
)
# If they change, raise the number in `ROW_HASH`: published versions identify their held-out rows by
# these hashes.
GOLDEN = ["cedbb9e2bfa987bf", "6c5bad1c2dd0b102", "513a8022d6fd045a", "40c48a482f3a4a72"]


def keys_of(source: pl.DataFrame | Path) -> list[int]:
    if isinstance(source, Path):
        opened = open_source(str(source))
    else:
        opened = Source("rows", [FrameFile("rows", source)])
    parsers = choose_columns(opened, Choice("y")).parsers
    features = {name: parser for name, parser in parsers.items() if name != "y"}
    roles = Roles.of(features, "y", None)
    return [int(key) for batch in opened.batches(parsers) for key in prepare(batch, roles).key]


def test_the_hash_of_a_row_never_changes() -> None:
    assert ROW_HASH == "multilinear-xxh64/1"
    assert [f"{key:016x}" for key in keys_of(ROWS)] == GOLDEN


def test_csv_and_parquet_and_any_order_of_columns_give_the_same(tmp_path: Path) -> None:
    expected = keys_of(ROWS)
    ROWS.write_csv(tmp_path / "rows.csv")
    ROWS.write_csv(tmp_path / "rows.tsv", separator="\t", quote_style="always")
    ROWS.write_parquet(tmp_path / "rows.parquet")
    narrow = ROWS.with_columns(pl.col("amount").cast(pl.Float32), pl.col("visits").cast(pl.Float64))
    narrow.write_parquet(tmp_path / "narrow.parquet")
    for name in ("rows.csv", "rows.tsv", "rows.parquet", "narrow.parquet"):
        assert keys_of(tmp_path / name) == expected, name
    assert keys_of(ROWS.select(reversed(ROWS.columns))) == expected
    assert keys_of(ROWS[::-1]) == expected[::-1]
    assert len(set(expected)) == 4


@pytest.mark.parametrize("column", ROWS.columns)
def test_each_cell_matters(column: str) -> None:
    values = ROWS[column].to_list()
    changed = ROWS.with_columns(pl.Series(column, [values[1], *values[1:]], ROWS[column].dtype))
    before, after = keys_of(ROWS), keys_of(changed)
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_equal_numbers_have_one_hash_and_different_ones_have_different_bits() -> None:
    nan = np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64)
    first, second = hash_numbers(nan).tolist()
    assert first == second
    zero, negative = hash_numbers(np.array([0.0, -0.0])).tolist()
    assert zero == negative
    fractions = np.random.default_rng(0).normal(size=1000)
    assert hash_numbers(fractions).tolist() == hash_numbers(fractions.astype(np.float32)).tolist()
    hashes = hash_numbers(np.arange(100_000.0))
    assert len(np.unique(hashes)) == 100_000
    assert len(np.unique(hashes & np.uint64(0xFFFFFFFF))) > 99_000
