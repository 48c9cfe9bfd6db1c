"""Held-out rows chosen by a column, by time or by file instead of by hash."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.training.test_reading import write_file
from training.data.reading import FrameFile, Source, open_source
from training.data.split import Split
from training.data.table import Choice, Table, read_table
from training.errors import DataError
from training.publishing.manifest import Data
from training.workers.collectives import Workers

ROWS = 400
FRAME = pl.DataFrame(
    {"x": [float(i) + 0.5 for i in range(ROWS)], "y": ["no", "no", "yes", "yes"] * (ROWS // 4)}
)


def load_table(
    source: Source | pl.DataFrame, folder: Path, validation: float = 0.0, **options: Any
) -> Table:
    if isinstance(source, pl.DataFrame):
        source = Source("rows", [FrameFile("rows", source)])
    split = Split(0.25, validation, 0)
    return read_table(source, Choice("y", **options), split, folder, Workers(), 1 << 30)


def row_numbers(table: Table, split: str) -> list[int]:
    """Return the sorted row numbers in a split."""
    spool = getattr(table, split)
    return sorted(int(x) for x in spool.sample(spool.rows).numbers[:, 0])


@pytest.mark.parametrize(
    ("column", "train", "test"),
    [
        ("split", "train", "test"),
        ("split", " Training", "HOLDOUT "),
        ("split", 0, 1),
        ("is_test", False, True),
        ("is_test", "0", "1"),
        ("in_train", 1.0, 0.0),
        ("Training?", "true", "false"),
    ],
)
def test_split_column_assigns_rows(tmp_path: Path, column: str, train: Any, test: Any) -> None:
    frame = FRAME.with_columns(pl.Series(column, [test, train, train, train, test] * (ROWS // 5)))
    table = load_table(frame, tmp_path, split_column=column)
    assert row_numbers(table, "held_out") == [n for n in range(ROWS) if n % 5 in (0, 4)]
    assert row_numbers(table, "train") == [n for n in range(ROWS) if n % 5 not in (0, 4)]
    assert [c.name for c in table.columns] == ["x"]
    assert [(c.name, c.reason) for c in table.left_out] == [(column, "--split-column")]


def test_validation_rows_require_early_stopping(tmp_path: Path) -> None:
    frame = FRAME.with_columns(
        pl.Series("split", ["train", "val", "train", "test", "test"] * (ROWS // 5))
    )
    table = load_table(frame, tmp_path, validation=0.1, split_column="split")
    assert row_numbers(table, "validation") == [n for n in range(ROWS) if n % 5 == 1]
    with pytest.raises(DataError) as caught:
        load_table(frame, tmp_path, split_column="split")
    assert str(caught.value) == (
        "rows row 2, column 'split': 'val' rows are for early stopping; add --early-stopping"
    )


def test_validation_rows_are_drawn_from_training_rows_if_none_are_marked(tmp_path: Path) -> None:
    frame = FRAME.with_columns(pl.Series("split", ["train", "test"] * (ROWS // 2)))
    table = load_table(frame, tmp_path, validation=0.2, split_column="split")
    assert row_numbers(table, "held_out") == list(range(1, ROWS, 2))
    assert 20 < table.rows["validation"] < 60
    assert table.rows["validation"] + table.rows["train"] == ROWS // 2


@pytest.mark.parametrize(("value", "got"), [("other", "'other'"), (None, "nothing")])
def test_unknown_value_in_split_column_is_rejected(
    tmp_path: Path, value: str | None, got: str
) -> None:
    values = ["train", "test", value, "train"] * (ROWS // 4)
    with pytest.raises(DataError) as caught:
        load_table(FRAME.with_columns(pl.Series("split", values)), tmp_path, split_column="split")
    assert str(caught.value).startswith(
        f"rows row 3, column 'split': expected train, test or validation, got {got}; "
    )


DAYS = [date(2024, 1, 1) + timedelta(days=(n * 7) % ROWS) for n in range(ROWS)]


@pytest.mark.parametrize(
    "times",
    [DAYS, [day.isoformat() for day in DAYS], [day.toordinal() for day in DAYS]],
    ids=["dates", "strings", "numbers"],
)
def test_split_time_holds_out_latest_rows(tmp_path: Path, times: list[Any]) -> None:
    table = load_table(FRAME.with_columns(pl.Series("when", times)), tmp_path, split_time="when")
    latest = sorted(range(ROWS), key=lambda n: DAYS[n])[-ROWS // 4 :]
    assert row_numbers(table, "held_out") == sorted(latest)
    assert [c.name for c in table.columns] == ["x"]


def test_split_time_keeps_rows_of_one_day_together(tmp_path: Path) -> None:
    days = [date(2024, 1, 1 + n // 80) for n in range(ROWS)]
    table = load_table(FRAME.with_columns(pl.Series("day", days)), tmp_path, split_time="day")
    assert row_numbers(table, "held_out") == list(range(240, ROWS))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([date(2024, 1, 1)] * ROWS, "the earliest time has too many rows"),
        (["early", "late"] * (ROWS // 2), "expected dates or numbers in column 'when'"),
        ([*DAYS[:-1], None], f"rows row {ROWS}, column 'when': expected a time for --split-time"),
    ],
)
def test_unusable_split_time_column_is_rejected(
    tmp_path: Path, times: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_table(FRAME.with_columns(pl.Series("when", times)), tmp_path, split_time="when")


def test_all_rows_of_test_data_are_held_out(tmp_path: Path) -> None:
    FRAME[:300].write_csv(tmp_path / "train.csv")
    FRAME[300:].write_parquet(tmp_path / "test.parquet")
    source = open_source(str(tmp_path / "train.csv"))
    test = open_source(str(tmp_path / "test.parquet"))
    table = load_table(Source("rows", source.files, test), tmp_path)
    assert row_numbers(table, "train") == list(range(300))
    assert row_numbers(table, "held_out") == list(range(300, ROWS))
    assert table.columns[0].maximum == 299.5


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "add rows"),
        ({"split_column": "split"}, "add rows"),
        ({"split_time": "when"}, "add rows, or change --held-out"),
    ],
)
def test_missing_class_gets_advice_for_the_split(
    tmp_path: Path, options: dict[str, Any], advice: str
) -> None:
    frame = pl.DataFrame({"when": range(ROWS), "split": ["train"] * 300 + ["test"] * 100})
    frame = frame.with_columns(y=pl.Series(["no", "yes"] * 150 + ["no"] * 100))
    test = None if options else Source("test", [FrameFile("test", frame[300:])])
    train = frame if options else frame[:300]
    with pytest.raises(DataError) as caught:
        load_table(Source("rows", [FrameFile("rows", train)], test), tmp_path, **options)
    assert str(caught.value) == (
        f"no held-out row has class 'yes' (held-out rows: 100 of {ROWS}); {advice}"
    )


def test_missing_column_in_test_data_is_rejected(tmp_path: Path) -> None:
    name = write_file(tmp_path / "test.csv", b"z,y\n1,yes\n2,no\n")
    source = Source("rows", [FrameFile("rows", FRAME)], open_source(name))
    with pytest.raises(DataError) as caught:
        load_table(source, tmp_path)
    assert str(caught.value) == f"--test-data: {name} has no column 'x'"


@pytest.mark.parametrize(
    ("write", "file"),
    [(pl.DataFrame.write_parquet, "0.parquet"), (pl.DataFrame.write_ipc, "0.arrow")],
)
def test_partition_directories_assign_rows(
    tmp_path: Path, write: Callable[[pl.DataFrame, Path], None], file: str
) -> None:
    for folder, column, values in (
        (tmp_path / "splits", "split", ("train", "validation", "test")),
        (tmp_path / "years", "year", (2022, 2023, 2024)),
    ):
        for number, value in enumerate(values):
            (folder / f"{column}={value}").mkdir(parents=True)
            write(FRAME[number * 100 :][:100], folder / f"{column}={value}" / file)
    source = open_source(str(tmp_path / "splits"))
    table = load_table(source, tmp_path, validation=0.1, split_column="split")
    assert row_numbers(table, "validation") == list(range(100, 200))
    table = load_table(open_source(str(tmp_path / "years")), tmp_path, split_time="year")
    assert row_numbers(table, "held_out") == list(range(200, 300))


def manifest_data(table: Table) -> Data:
    return Data.from_fingerprint(table.fingerprint, "y")


def test_holds_out_rows_of_compares_splits(tmp_path: Path) -> None:
    original = FRAME.with_columns(pl.Series("split", ["train", "test"] * (ROWS // 2)))
    swapped = FRAME.with_columns(pl.Series("split", ["test", "train"] * (ROWS // 2)))
    first, same, third = (
        manifest_data(load_table(frame, tmp_path, split_column="split"))
        for frame in (original, original, swapped)
    )
    assert first.split_by == "column"
    assert first.columns == ("x", "y")
    assert first.holds_out_rows_of(same)
    assert not first.holds_out_rows_of(third)
    times = FRAME.with_columns(pl.Series("when", DAYS))
    early = manifest_data(load_table(times[:300], tmp_path, split_time="when"))
    late = manifest_data(load_table(times, tmp_path, split_time="when"))
    assert early.holds_out_rows_of(late)
    assert not late.holds_out_rows_of(early)
    assert not first.holds_out_rows_of(late)
