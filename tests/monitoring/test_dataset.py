"""Datasets of retrainings: types, tables that cannot be read, and `forget` meanwhile."""

from __future__ import annotations

import threading
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from monitoring import dataset as dataset_module
from monitoring.compaction import forget
from monitoring.dataset import Dataset, build
from monitoring.errors import MonitoringError
from monitoring.quality import labelled_rows
from monitoring.store import Store
from monitoring.versions import Version
from tests.support import prediction_log
from tests.support.prediction_log import NOON, feedback, prediction, write

NOW = datetime.now(timezone.utc)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two labelled rows."""
    log = tmp_path / "log"
    write(log / "a.ndjson", [prediction(n, columns={"x": n}) for n in range(2)])
    write(log / "feedback" / "a.ndjson", [feedback(0, "yes"), feedback(1, "no")])
    return Store(log)


def version(folder: Path, *names: str, **changes: Any) -> Version:
    columns = [
        {"name": n, "kind": "numeric", "shares": [1.0], "missing": 0, "other": 0, "contribution": 0}
        for n in names
    ]
    return Version(prediction_log.version(folder / "models", columns=columns, **changes))


def built(store: Store, version: Version, data: Path) -> Dataset:
    return build(store, "m", version, str(data), "left", NOON, NOW, "a test")


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
    cells = [
        {"size": 2.0, "rooms": 5, "since": "2025-01-31", "seen": "2025-01-31T08:30:00",
         "garden": False, "city": "b"},
        dict.fromkeys(original.columns[:-1]),
    ]  # fmt: skip
    write(tmp_path / "log" / "a.ndjson", [prediction(n, columns=c) for n, c in enumerate(cells)])
    labels = [feedback(n, label) for n, label in enumerate(["yes", "no"])]
    write(tmp_path / "log" / "feedback" / "a.ndjson", labels)
    model = version(tmp_path, *original.columns[:-1])
    dataset = built(Store(tmp_path / "log"), model, tmp_path / "table.parquet")
    rows = pl.read_parquet(dataset.rows / "labelled.parquet")
    assert rows.schema == {**original.schema, "prediction id": pl.String}
    seen = datetime(2025, 1, 31, 8, 30)
    assert rows.rows() == [
        (2.0, 5, date(2025, 1, 31), seen, False, "b", "yes", "id-0"),
        (None, None, None, None, None, None, "no", "id-1"),
    ]
    assert dataset.provenance.weighted is False


def test_labels_may_be_booleans(tmp_path: Path) -> None:
    write(tmp_path / "log" / "a.ndjson", [prediction(n, columns={"x": n}) for n in range(2)])
    labels = [feedback(0, "true"), feedback(1, "false")]
    write(tmp_path / "log" / "feedback" / "a.ndjson", labels)
    table = pl.DataFrame({"x": [1.0, 2.0], "left": [True, False]})
    table.write_parquet(tmp_path / "table.parquet")
    model = version(tmp_path, "x", class_names=("false", "true"))
    dataset = built(Store(tmp_path / "log"), model, tmp_path / "table.parquet")
    rows = pl.read_parquet(dataset.rows / "labelled.parquet")
    assert rows["left"].to_list() == [True, False]


def test_tables_that_cannot_be_read_or_extended_are_reported(store: Store, tmp_path: Path) -> None:
    (tmp_path / "ragged.csv").write_text("x,left\n1,no\n2,yes,4\n")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    lists = pl.DataFrame({"x": [[1]], "left": ["no"]})
    lists.write_parquet(tmp_path / "lists.parquet")
    model = version(tmp_path, "x")
    for name in ("ragged.csv", "torn.parquet", "lists.parquet"):
        with pytest.raises(MonitoringError, match=f"{name}: cannot be read or extended: ."):
            built(store, model, tmp_path / name)
    assert list((store.directory / "datasets").iterdir()) == []


def test_rows_that_are_forgotten_meanwhile_are_not_in_the_dataset(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = threading.Thread(target=lambda: forget(store, ["id-1"], [], lambda n: None))

    def read(*arguments: Any) -> Any:
        found = labelled_rows(*arguments)
        job.start()
        job.join(0.3)  # enough to forget, were there no lock
        return found

    monkeypatch.setattr(dataset_module, "labelled_rows", read)
    (tmp_path / "table.csv").write_text("x,left\n1,no\n")
    dataset = built(store, version(tmp_path, "x"), tmp_path / "table.csv")
    job.join(20)
    assert pl.read_parquet(dataset.rows / "labelled.parquet")["prediction id"].to_list() == ["id-0"]
