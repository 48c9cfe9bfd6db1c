"""Artefacts that programs store beside a table's rows: indexes, markers, empty parts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.training.test_reading import rows_of, written
from training.data.reading import Source, open_source
from training.data.split import Split
from training.data.table import Choice, Table, read_table
from training.errors import DataError
from training.workers.collectives import Workers

FRAME = pl.DataFrame({"x": [0.5 * i for i in range(200)], "y": ["no", "yes"] * 100})


def store_as_pandas_does(frame: pl.DataFrame, path: Path, index: list[Any]) -> None:
    """Write a Parquet file with pandas' metadata about its index."""
    described = json.dumps({"index_columns": index, "columns": [], "pandas_version": "3.0.0"})
    pq.write_table(frame.to_arrow().replace_schema_metadata({"pandas": described}), path)


def features(source: Source, folder: Path, **options: Any) -> list[str]:
    """Return the names of the columns that are used."""
    return [column.name for column in table_of(source, folder, **options).columns]


def table_of(source: Source, folder: Path, **options: Any) -> Table:
    choice = Choice("y", **options)
    return read_table(source, choice, Split(0.3, 0.0, 0), folder, Workers(), 1 << 30)


@pytest.mark.parametrize(
    ("index", "values", "kind"),
    [
        ("__index_level_0__", pl.arange(0, 200, eager=True).shuffle(seed=0), "numeric"),
        ("when", pl.arange(0, 400, 2, eager=True), "numeric"),
        ("place", pl.Series(["a", "b"] * 100), "categorical"),
    ],
)
def test_the_index_of_pandas_is_no_feature(
    tmp_path: Path, index: str, values: pl.Series, kind: str
) -> None:
    path = tmp_path / "rows.parquet"
    store_as_pandas_does(FRAME.with_columns(values.alias(index)), path, [index])
    source = open_source(str(path))
    assert source.left_out == {index: "pandas index"}
    assert features(source, tmp_path) == ["x"]
    assert features(source, tmp_path, kinds={index: kind}) == ["x", index]


def test_a_column_left_out_as_an_index_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    store_as_pandas_does(FRAME.with_row_index("nr"), path, ["nr"])
    (left_out,) = table_of(open_source(str(path)), tmp_path).left_out
    assert (left_out.name, left_out.reason) == ("nr", "pandas index")


def test_an_index_that_only_counts_is_no_column(tmp_path: Path) -> None:
    counts = {"kind": "range", "name": None, "start": 0, "stop": 200, "step": 1}
    store_as_pandas_does(FRAME, tmp_path / "rows.parquet", [counts])
    source = open_source(str(tmp_path / "rows.parquet"))
    assert source.columns == ("x", "y")
    assert source.left_out == {}


def test_an_index_of_pandas_is_known_by_its_name_after_another_program(tmp_path: Path) -> None:
    FRAME.with_row_index("__index_level_0__").write_ipc(tmp_path / "rows.arrow")
    source = open_source(str(tmp_path / "rows.arrow"))
    assert source.left_out == {"__index_level_0__": "pandas index"}


@pytest.mark.parametrize("header", [",x,y", '"","x","y"', "Unnamed: 0,x,y"])
def test_the_index_in_a_csv_file_is_no_feature(tmp_path: Path, header: str) -> None:
    lines = [f"{n},{x},{y}" for n, (x, y) in enumerate(FRAME.rows())]
    source = open_source(written(tmp_path / "rows.csv", "\n".join([header, *lines]).encode()))
    assert source.columns == ("Unnamed: 0", "x", "y")
    assert features(source, tmp_path) == ["x"]
    assert features(source, tmp_path, kinds={"Unnamed: 0": "numeric"}) == ["Unnamed: 0", "x"]


def test_parts_with_and_without_an_index_are_one_table(tmp_path: Path) -> None:
    store_as_pandas_does(FRAME, tmp_path / "1.parquet", [])
    store_as_pandas_does(FRAME.with_row_index("nr"), tmp_path / "0.parquet", ["nr"])
    source = open_source(str(tmp_path))
    assert features(source, tmp_path) == ["x"]
    with pytest.raises(DataError, match=r"1\.parquet has no column 'nr'$"):
        features(source, tmp_path, kinds={"nr": "numeric"})


MARKERS = {
    "._rows.csv": b"\0\5\x16\7\0\2\0\0Mac OS X",
    ".rows.csv.crc": b"crc\0",
    ".hidden.csv": b"other,columns\n1,2\n",
    "_SUCCESS": b"",
    "_metadata": b"PAR1",
    "_common_metadata": b"PAR1",
}


@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_files_of_a_program_beside_the_parts_are_not_read(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, data in MARKERS.items():
        written(folder / name, data)
    written(folder / "1.csv", b"a,b\n1,x\n")
    written(folder / "2.csv", b"a,b\n")
    written(folder / "3.csv", b"")
    written(folder / "4.csv.gz", b"")
    written(folder / "5.csv", b"a,b\n2,y\n")
    pl.DataFrame({"a": [], "b": []}, schema={"a": pl.Int64, "b": pl.String}).write_parquet(
        folder / "6.parquet"
    )
    written(folder / "7.json", b"\n")
    assert rows_of(open_source(f"{folder}{pattern}")) == [(1, "x"), (2, "y")]


def test_parts_that_are_all_empty_are_an_error(tmp_path: Path) -> None:
    first = written(tmp_path / "1.csv", b"a,b\n")
    written(tmp_path / "2.csv", b"")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == f"{first}: expected a header and rows, found nothing"


@pytest.mark.parametrize("pattern", ["", "/*/*/*.csv", "/**/*.csv", "/year=*/**/*.csv"])
def test_a_column_may_be_in_the_names_of_directories(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "not=this"
    for year, city in ((2024, "a%20b"), (2025, "__HIVE_DEFAULT_PARTITION__")):
        path = folder / f"year={year}" / f"city={city}"
        path.mkdir(parents=True)
        written(path / "part-0.csv", f"a\n{year - 2000}\n".encode())
        written(path / "_SUCCESS", b"")
    source = open_source(f"{folder}{pattern}")
    assert source.columns == ("a", "year", "city")
    # In the order of the columns' names.
    assert rows_of(source) == [(24, "a b", 2024), (25, None, 2025)]


def test_directories_of_parquet_files_are_read_too(tmp_path: Path) -> None:
    for label in ("no", "yes"):
        (tmp_path / f"y={label}").mkdir()
        pl.DataFrame({"x": [1.5, math.pi]}).write_parquet(tmp_path / f"y={label}" / "0.parquet")
    rows = rows_of(open_source(str(tmp_path)))
    assert [(round(x, 2), y) for x, y in rows] == [
        *((1.5, "no"), (3.14, "no"), (1.5, "yes"), (3.14, "yes"))
    ]


def test_a_column_cannot_be_in_the_file_and_in_its_path(tmp_path: Path) -> None:
    (tmp_path / "a=1").mkdir()
    name = written(tmp_path / "a=1" / "0.csv", b"a,b\n1,2\n")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == (
        f"{name}: the column 'a' is both in the file and in its directory's name"
    )


def test_a_directory_without_tables_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    written(tmp_path / "rows.xlsx", b"")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value).endswith(
        f"; it has below/, rows.xlsx; '{tmp_path}/**/*.csv' reads files below it"
    )
