"""Retraining datasets: types, unreadable tables, and a concurrent `forget`."""

from __future__ import annotations

import threading
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from monitoring import dataset as dataset_module
from monitoring.compaction import forget
from monitoring.dataset import Dataset, build
from monitoring.errors import MonitoringError
from monitoring.quality import read_labelled_rows
from monitoring.store import Store
from monitoring.versions import Version
from tests.support import prediction_log
from tests.support.prediction_log import NOON, feedback, prediction, write_segment


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A log of two labelled rows."""
    log = tmp_path / "log"
    write_segment(log / "a.ndjson", [prediction(n, columns={"x": n}) for n in range(2)])
    write_segment(log / "feedback" / "a.ndjson", [feedback(0, "yes"), feedback(1, "no")])
    return Store(log)


def make_version(folder: Path, *names: str, **changes: Any) -> Version:
    columns = [
        {"name": n, "kind": "numeric", "shares": [1.0], "missing": 0, "other": 0, "contribution": 0}
        for n in names
    ]
    return Version(prediction_log.write_version(folder / "models", columns=columns, **changes))


def build_dataset(store: Store, version: Version, data: Path) -> Dataset:
    now = datetime.now(timezone.utc)
    return build(store, "m", version, str(data), "left", NOON, now, "a test")


def test_logged_cells_have_the_types_of_the_original_table(tmp_path: Path) -> None:
    original = pl.DataFrame(
        {
            "size": [1.5, None],
            "rooms": pl.Series([3, 4], dtype=pl.Int32),
            "since": [date(2024, 3, 1), None],
            "seen": pl.Series([datetime(2024, 3, 1, 12), None], dtype=pl.Datetime("ms")),
            "garden": [True, None],
            "city": ["a", None],
            "left": ["no", "yes"],
        }
    )
    original.write_parquet(tmp_path / "table.parquet")
    cells: list[dict[str, Any]] = [
        {"size": 2.0, "rooms": 5, "since": "2025-01-31", "seen": "2025-01-31",
         "garden": False, "city": "b"},
        {"seen": "2025-01-31T08:30:00Z"},
        {"seen": "2025-01-31T08:30:00.250000Z"},
    ]  # fmt: skip
    cells = [dict.fromkeys(original.columns[:-1]) | row for row in cells]
    write_segment(
        tmp_path / "log" / "a.ndjson", [prediction(n, columns=c) for n, c in enumerate(cells)]
    )
    labels = [feedback(n, label) for n, label in enumerate(["yes", "no", "yes"])]
    write_segment(tmp_path / "log" / "feedback" / "a.ndjson", labels)
    version = make_version(tmp_path, *original.columns[:-1])
    dataset = build_dataset(Store(tmp_path / "log"), version, tmp_path / "table.parquet")
    rows = pl.read_parquet(dataset.rows / "labelled.parquet")
    assert rows.schema == {**original.schema, "prediction id": pl.String}
    seen = datetime(2025, 1, 31, 8, 30)
    assert rows.rows() == [
        (2.0, 5, date(2025, 1, 31), datetime(2025, 1, 31), False, "b", "yes", "id-0"),
        (None, None, None, seen, None, None, "no", "id-1"),
        (None, None, None, seen + timedelta(milliseconds=250), None, None, "yes", "id-2"),
    ]
    assert dataset.provenance.weighted is False


def test_columns_widen_for_logged_cells_and_rows_that_do_not_fit_are_counted(
    tmp_path: Path,
) -> None:
    original = pl.DataFrame(
        {
            "big": [2**53 + 3],
            "rooms": [3],
            "floor": pl.Series([1], dtype=pl.UInt8),
            "since": [date(2024, 3, 1)],
            "left": ["no"],
        }
    )
    original.write_parquet(tmp_path / "table.parquet")
    cells = [
        {"big": 2**53 + 1, "rooms": 1.9, "floor": 300, "since": "2024-03-18T12:00:00Z"},
        {"big": 1, "rooms": 2, "floor": 2, "since": "100000000.5"},
        {"big": 1, "rooms": "many", "floor": 2, "since": None},
    ]
    write_segment(
        tmp_path / "log" / "a.ndjson", [prediction(n, columns=c) for n, c in enumerate(cells)]
    )
    write_segment(
        tmp_path / "log" / "feedback" / "a.ndjson", [feedback(n, "yes") for n in range(3)]
    )
    version = make_version(tmp_path, *original.columns[:-1])
    dataset = build_dataset(Store(tmp_path / "log"), version, tmp_path / "table.parquet")
    noon = datetime(2024, 3, 18, 12, tzinfo=timezone.utc)
    labelled = pl.read_parquet(dataset.rows / "labelled.parquet")
    assert labelled.rows() == [(2**53 + 1, 1.9, 300.0, noon, "yes", "id-0")]
    assert dataset.provenance.incomplete == 2
    stored = pl.read_parquet(dataset.rows / "original.parquet")
    assert stored.schema == labelled.schema
    assert stored.rows()[0][:2] == (2**53 + 3, 3.0)


def test_dataset_reads_the_same_files_as_training(store: Store, tmp_path: Path) -> None:
    folder, version = tmp_path / "table", make_version(tmp_path, "x")
    (folder / "more").mkdir(parents=True)
    for name in ("a.csv", "_b.CSV", "more/c.csv", "t[1].csv"):
        (folder / name).write_text('"x, y | z";left\n1;no\n')
    for name in (".d.csv", "_SUCCESS", "README.md"):
        (folder / name).touch()
    for name, rows in (("", 3), ("_b.CSV", 1), ("t[1].csv", 1), ("*/c.csv", 1), ("**/*.csv", 3)):
        assert build_dataset(store, version, folder / name).provenance.original_rows == rows
    (folder / "year=2024").mkdir()
    (folder / "year=2024" / "e.csv").write_text("x,left\n1,no\n")
    for name in ("", "*/e.csv"):
        with pytest.raises(MonitoringError, match="'year=2024' adds a column to the rows below it"):
            build_dataset(store, version, folder / name)
    dataset = build_dataset(store, version, folder / "year=2024" / "*.csv")
    assert dataset.provenance.original_rows == 1


@pytest.mark.parametrize("header", [",x, left", "Unnamed: 0,x ,left", "sep=,\n0,x,left"])
def test_headers_are_read_as_in_training(store: Store, tmp_path: Path, header: str) -> None:
    (tmp_path / "table.csv").write_text(f"{header}\n0,1,no\n")
    dataset = build_dataset(store, make_version(tmp_path, "x"), tmp_path / "table.csv")
    rows = pl.read_parquet(dataset.rows / "labelled.parquet")
    assert rows["x", "left"].rows() == [("0", "yes"), ("1", "no")]
    assert ("0" in rows.columns) == header.startswith("sep=")
    assert not {"", "Unnamed: 0"} & set(rows.columns)


def test_unnamed_index_column_can_be_a_feature(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("Unnamed: 0,left\n1,no\n")
    version = make_version(tmp_path, "Unnamed: 0")
    (tmp_path / "log").mkdir()
    dataset = build_dataset(Store(tmp_path / "log"), version, tmp_path / "table.csv")
    assert "Unnamed: 0" in pl.read_parquet_schema(dataset.rows / "original.parquet")


def test_labels_can_be_booleans(tmp_path: Path) -> None:
    write_segment(
        tmp_path / "log" / "a.ndjson", [prediction(n, columns={"x": n}) for n in range(2)]
    )
    labels = [feedback(0, "true"), feedback(1, "false")]
    write_segment(tmp_path / "log" / "feedback" / "a.ndjson", labels)
    table = pl.DataFrame({"x": [1.0, 2.0], "left": [True, False]})
    table.write_parquet(tmp_path / "table.parquet")
    version = make_version(tmp_path, "x", class_names=("false", "true"))
    dataset = build_dataset(Store(tmp_path / "log"), version, tmp_path / "table.parquet")
    rows = pl.read_parquet(dataset.rows / "labelled.parquet")
    assert rows["left"].to_list() == [True, False]


def test_tables_that_cannot_be_read_or_extended_are_rejected(store: Store, tmp_path: Path) -> None:
    (tmp_path / "ragged.csv").write_text("x,left\n1,no\n2,yes,4\n")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    lists = pl.DataFrame({"x": [[1]], "left": ["no"]})
    lists.write_parquet(tmp_path / "lists.parquet")
    version = make_version(tmp_path, "x")
    (tmp_path / "dataset.csv").write_text("x,left,prediction id\n1,no,id-9\n")
    with pytest.raises(MonitoringError, match="has the column 'prediction id'"):
        build_dataset(store, version, tmp_path / "dataset.csv")
    for name in ("ragged.csv", "torn.parquet", "lists.parquet"):
        with pytest.raises(MonitoringError, match=f"{name}: cannot be read or extended: ."):
            build_dataset(store, version, tmp_path / name)
    assert list((store.directory / "datasets").iterdir()) == []


def test_rows_forgotten_during_a_build_are_removed_from_the_dataset(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_thread = threading.Thread(target=lambda: forget(store, ["id-1"], [], lambda n: None))

    def read(*arguments: Any) -> Any:
        rows = read_labelled_rows(*arguments)
        forget_thread.start()
        forget_thread.join(0.3)  # long enough for `forget` if there were no lock
        return rows

    monkeypatch.setattr(dataset_module, "read_labelled_rows", read)
    (tmp_path / "table.csv").write_text("x,left\n1,no\n")
    dataset = build_dataset(store, make_version(tmp_path, "x"), tmp_path / "table.csv")
    forget_thread.join(20)
    assert pl.read_parquet(dataset.rows / "labelled.parquet")["prediction id"].to_list() == ["id-0"]
