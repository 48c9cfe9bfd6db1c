"""Artefacts that programs write next to a table's rows: indexes, markers, empty parts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.training.test_reading import read_rows, write_file
from training.data.reading import Source, open_source
from training.data.split import Split
from training.data.table import Choice, Table, read_table
from training.errors import DataError
from training.workers.collectives import Workers

FRAME = pl.DataFrame({"x": [0.5 * i for i in range(200)], "y": ["no", "yes"] * 100})


def write_pandas_parquet(frame: pl.DataFrame, path: Path, index: list[Any]) -> None:
    """Write a Parquet file with pandas' metadata about its index."""
    metadata = json.dumps({"index_columns": index, "columns": [], "pandas_version": "3.0.0"})
    pq.write_table(frame.to_arrow().replace_schema_metadata({"pandas": metadata}), path)


def feature_names(source: Source, folder: Path, **options: Any) -> list[str]:
    return [column.name for column in load_table(source, folder, **options).columns]


def load_table(source: Source, folder: Path, **options: Any) -> Table:
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
def test_pandas_index_is_not_a_feature_unless_requested(
    tmp_path: Path, index: str, values: pl.Series, kind: str
) -> None:
    path = tmp_path / "rows.parquet"
    write_pandas_parquet(FRAME.with_columns(values.alias(index)), path, [index])
    source = open_source(str(path))
    assert source.left_out == {index: "pandas index"}
    assert feature_names(source, tmp_path) == ["x"]
    assert feature_names(source, tmp_path, kinds={index: kind}) == ["x", index]


def test_omitted_index_column_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_pandas_parquet(FRAME.with_row_index("nr"), path, ["nr"])
    (left_out,) = load_table(open_source(str(path)), tmp_path).left_out
    assert (left_out.name, left_out.reason) == ("nr", "pandas index")


def test_range_index_is_not_a_column(tmp_path: Path) -> None:
    range_index = {"kind": "range", "name": None, "start": 0, "stop": 200, "step": 1}
    write_pandas_parquet(FRAME, tmp_path / "rows.parquet", [range_index])
    source = open_source(str(tmp_path / "rows.parquet"))
    assert source.columns == ("x", "y")
    assert source.left_out == {}


def test_pandas_index_is_recognised_by_name_without_metadata(tmp_path: Path) -> None:
    FRAME.with_row_index("__index_level_0__").write_ipc(tmp_path / "rows.arrow")
    source = open_source(str(tmp_path / "rows.arrow"))
    assert source.left_out == {"__index_level_0__": "pandas index"}


@pytest.mark.parametrize("header", [",x,y", '"","x","y"', "Unnamed: 0,x,y"])
def test_csv_index_is_not_a_feature_unless_requested(tmp_path: Path, header: str) -> None:
    lines = [f"{n},{x},{y}" for n, (x, y) in enumerate(FRAME.rows())]
    source = open_source(write_file(tmp_path / "rows.csv", "\n".join([header, *lines]).encode()))
    assert source.columns == ("Unnamed: 0", "x", "y")
    assert feature_names(source, tmp_path) == ["x"]
    assert feature_names(source, tmp_path, kinds={"Unnamed: 0": "numeric"}) == ["Unnamed: 0", "x"]


def test_files_with_and_without_index_form_one_table(tmp_path: Path) -> None:
    write_pandas_parquet(FRAME, tmp_path / "1.parquet", [])
    write_pandas_parquet(FRAME.with_row_index("nr"), tmp_path / "0.parquet", ["nr"])
    source = open_source(str(tmp_path))
    assert feature_names(source, tmp_path) == ["x"]
    with pytest.raises(DataError, match=r"1\.parquet has no column 'nr'$"):
        feature_names(source, tmp_path, kinds={"nr": "numeric"})


MARKERS = {
    "._rows.csv": b"\0\5\x16\7\0\2\0\0Mac OS X",
    ".rows.csv.crc": b"crc\0",
    ".hidden.csv": b"other,columns\n1,2\n",
    "_SUCCESS": b"",
    "_metadata": b"PAR1",
    "_common_metadata": b"PAR1",
}


@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_marker_files_and_empty_parts_are_ignored(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, data in MARKERS.items():
        write_file(folder / name, data)
    write_file(folder / "1.csv", b"a,b\n1,x\n")
    write_file(folder / "2.csv", b"a,b\n")
    write_file(folder / "3.csv", b"")
    write_file(folder / "4.csv.gz", b"")
    write_file(folder / "5.csv", b"a,b\n2,y\n")
    pl.DataFrame({"a": [], "b": []}, schema={"a": pl.Int64, "b": pl.String}).write_parquet(
        folder / "6.parquet"
    )
    write_file(folder / "7.json", b"\n")
    assert read_rows(open_source(f"{folder}{pattern}")) == [(1, "x"), (2, "y")]


def test_table_of_only_empty_parts_is_rejected(tmp_path: Path) -> None:
    first = write_file(tmp_path / "1.csv", b"a,b\n")
    write_file(tmp_path / "2.csv", b"")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == f"{first}: expected a header and rows, found nothing"


@pytest.mark.parametrize("pattern", ["", "/*/*/*.csv", "/**/*.csv", "/year=*/**/*.csv"])
def test_partition_directories_become_columns(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "not=this"
    for year, city in ((2024, "a%20b"), (2025, "__HIVE_DEFAULT_PARTITION__")):
        path = folder / f"year={year}" / f"city={city}"
        path.mkdir(parents=True)
        write_file(path / "part-0.csv", f"a\n{year - 2000}\n".encode())
        write_file(path / "_SUCCESS", b"")
    source = open_source(f"{folder}{pattern}")
    assert source.columns == ("a", "year", "city")
    # Values are ordered by column name.
    assert read_rows(source) == [(24, "a b", 2024), (25, None, 2025)]


def test_partitioned_parquet_files_are_read(tmp_path: Path) -> None:
    for label in ("no", "yes"):
        (tmp_path / f"y={label}").mkdir()
        pl.DataFrame({"x": [1.5, math.pi]}).write_parquet(tmp_path / f"y={label}" / "0.parquet")
    rows = read_rows(open_source(str(tmp_path)))
    assert [(round(x, 2), y) for x, y in rows] == [
        *((1.5, "no"), (3.14, "no"), (1.5, "yes"), (3.14, "yes"))
    ]


def test_column_in_both_file_and_path_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a=1").mkdir()
    name = write_file(tmp_path / "a=1" / "0.csv", b"a,b\n1,2\n")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == (
        f"{name}: the column 'a' is both in the file and in its directory's name"
    )


def test_error_for_directory_without_tables_lists_contents(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write_file(tmp_path / "rows.xlsx", b"")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value).endswith(
        f"; it has below/, rows.xlsx; '{tmp_path}/**/*.csv' reads files below it"
    )
