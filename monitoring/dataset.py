"""Tables for retraining: the original table plus labelled rows of the log."""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from monitoring.errors import MonitoringError
from monitoring.quality import QUALITY_COLUMNS, read_labelled_rows
from monitoring.store import DATASETS, Store, write_parquet
from monitoring.versions import Version

# Columns that a dataset adds to those of the original table.
ID, WEIGHT = "prediction id", "row weight"
# These rules match the training job's: suffixes, ignored files, separators and index columns.
CSV = (".csv", ".tsv", ".tab", ".txt")
PARQUET = (".parquet", ".pq")
ARROW = (".feather", ".arrow", ".ipc")
JSON_LINES = (".ndjson", ".jsonl", ".json")
SUFFIXES = (*CSV, *PARQUET, *ARROW, *JSON_LINES)
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zip")
MARKERS = ("_SUCCESS", "_metadata", "_common_metadata")
SEPARATORS = ",;\t|"
SEPARATOR_LINE = re.compile(r'"?sep=([\t !#-~])"?[ \t,;]*', re.IGNORECASE)
BLANKS = " \t\n\v\f\r"
# Name of a first column that is an index written by pandas or R.
INDEX_NAME = re.compile(r"|Unnamed: 0(\.\d+)?")


@dataclass(frozen=True)
class Provenance:
    """The origin of a dataset's rows.

    Attributes:
        model: name of the model.
        time: when the dataset was built, ISO 8601.
        reason: reason for the retraining run.
        data: the original table.
        original_rows: its number of rows.
        labelled_rows: number of labelled rows from the log.
        start, end: time range of the predictions used.
        rows_by_version: labelled rows per version that predicted them.
        incomplete: labelled rows excluded because a column is missing, or because a cell does not
            fit the column's type.
        weighted: whether rows are weighted by 1/share; false if every share was 1.
    """

    model: str
    time: str
    reason: str
    data: str
    original_rows: int
    labelled_rows: int
    start: str
    end: str
    rows_by_version: Mapping[str, int]
    incomplete: int
    weighted: bool


@dataclass(frozen=True)
class Dataset:
    """A dataset: a directory with `rows/` and `provenance.json`."""

    directory: Path
    provenance: Provenance

    @property
    def rows(self) -> Path:
        """Directory of the table's files."""
        return self.directory / "rows"


def build(
    store: Store,
    model: str,
    version: Version,
    data: str,
    label: str,
    start: datetime,
    now: datetime,
    reason: str,
) -> Dataset:
    """Build a dataset.

    Args:
        store: the directory of the log.
        model: name of the model.
        version: the newest version, for columns and classes.
        data: the original table: a file, a directory or a glob.
        label: the label column.
        start: use predictions from this time on.
        now: the current time.
        reason: recorded in the provenance.

    Raises:
        MonitoringError: the original table cannot be read or extended, or the log lacks columns.
    """
    directory = store.directory / DATASETS / f"{now:%Y%m%dT%H%M%S%f}"
    with _new_directory(directory, data):
        original = _scan_table(data, [c.name for c in version.reference.columns if c.name])
        schema = original.collect_schema()
        if label not in schema:
            raise MonitoringError(
                f"{data} has no column {label!r}; --label must name the label column"
            )
        for name in (ID, WEIGHT):
            if name in schema:
                raise MonitoringError(
                    f"{data} has the column {name!r}, which retraining adds; --data must name "
                    "the original table"
                )
        # The lock lets `forget` find each row either in the log or in the dataset.
        with store.locked(exclusive=False):
            rows, cells, incomplete = _complete_rows(store, model, version, start)
            texts = pl.DataFrame(
                {name: [_as_text(row.get(name)) for row in cells] for name in schema},
                dict.fromkeys(schema, pl.String),
            ).with_columns(rows["actual"].alias(label))
            labelled, is_valid = _as_table(texts, schema)
            rows, labelled = rows.filter(is_valid), labelled.filter(is_valid)
            incomplete += len(is_valid) - len(rows)
            original = original.cast(labelled.schema).with_columns(
                pl.lit(None, pl.String).alias(ID)
            )
            labelled = labelled.with_columns(rows["id"].alias(ID))
            weighted = bool((rows["share"] < 1).any())
            if weighted:
                labelled = labelled.with_columns((1 / rows["share"]).alias(WEIGHT))
                original = original.with_columns(pl.lit(1.0).alias(WEIGHT))
            if len(labelled):
                write_parquet(directory / "rows" / "labelled.parquet", labelled)
        original.sink_parquet(directory / "rows" / "original.parquet")
        counts = rows["version"].value_counts(name="count").sort("version").rows()
        provenance = Provenance(
            model=model,
            time=now.isoformat(timespec="seconds"),
            reason=reason,
            data=data,
            original_rows=_row_count(directory / "rows" / "original.parquet"),
            labelled_rows=len(labelled),
            start=start.isoformat(timespec="seconds"),
            end=now.isoformat(timespec="seconds"),
            rows_by_version={str(number): count for number, count in counts},
            incomplete=incomplete,
            weighted=weighted,
        )
        text = json.dumps(asdict(provenance), indent=2, ensure_ascii=False)
        (directory / "provenance.json").write_text(text + "\n", encoding="utf-8")
    return Dataset(directory, provenance)


@contextmanager
def _new_directory(directory: Path, data: str) -> Iterator[None]:
    """Create a dataset's directory; remove it if the block fails.

    Raises:
        MonitoringError: polars failed to read or extend the original table.
    """
    (directory / "rows").mkdir(parents=True)
    try:
        yield
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, pl.exceptions.PolarsError):
            reason = str(error).partition("\n")[0]
            raise MonitoringError(f"{data}: cannot be read or extended: {reason}") from error
        raise


def _complete_rows(
    store: Store, model: str, version: Version, start: datetime
) -> tuple[pl.DataFrame, list[dict[str, Any]], int]:
    """Return labelled rows that have all columns, their cells, and the number of incomplete rows.

    Raises:
        MonitoringError: no labelled row is complete.
    """
    rows, _ = read_labelled_rows(store, model, start, (*QUALITY_COLUMNS, "columns"))
    rows = rows.filter(pl.col("actual").is_in(version.reference.class_names))
    cells = [orjson.loads(text) for text in rows["columns"]]
    features = [c.name for c in version.reference.columns if c.name]
    is_complete = [all(name in row for name in features) for row in cells]
    if cells and not any(is_complete):
        missing = [name for name in features if name not in cells[0]]
        raise MonitoringError(
            f"logged rows of {model!r} lack the columns {', '.join(map(repr, missing))}; they are "
            "in CLIENT_LOG_LEAVE_OUT, or the requests do not have them"
        )
    rows = rows.filter(pl.Series(is_complete, dtype=pl.Boolean))
    cells = [row for row, complete in zip(cells, is_complete, strict=True) if complete]
    return rows, cells, is_complete.count(False)


def _scan_table(data: str, features: Container[str]) -> pl.LazyFrame:
    """Return the original table; cells of CSV stay text for the training job to parse."""
    files = _find_files(data)
    if not files:
        raise MonitoringError(
            f"{data}: no such file, or no table in this directory; --data must name the original "
            "table"
        )
    return pl.concat([_scan_file(path, features) for path in files])


def _find_files(data: str) -> list[Path]:
    """Return the files that `python -m training fit --data` reads.

    Raises:
        MonitoringError: a directory name encodes a column value, such as year=2024.
    """
    path = Path(data)
    if path.is_dir():
        entries = [entry for entry in sorted(path.iterdir()) if not _is_ignored(entry)]
        files = [entry for entry in entries if entry.is_file() and _suffix(entry) in SUFFIXES]
        folders = [entry.name for entry in entries if entry.is_dir()]
    elif path.exists():
        return [path]
    else:
        matches = [Path(match) for match in sorted(glob.glob(data, recursive=True))]  # noqa: PTH207
        files = [match for match in matches if match.is_file() and not _is_ignored(match)]
        prefix = len(list(takewhile(lambda part: not glob.has_magic(part), path.parts)))
        folders = [name for file in files for name in file.parts[prefix:-1]]
    for name in folders:
        if name.find("=") > 0:
            raise MonitoringError(
                f"{data}: the directory {name!r} adds a column to the rows below it; retraining "
                "cannot extend such a table, expected files with all columns"
            )
    return files


def _is_ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name in MARKERS


def _suffix(path: Path) -> str:
    """Return the suffix that precedes any compression suffix."""
    suffixes = [suffix.lower() for suffix in reversed(path.suffixes)]
    return next((suffix for suffix in suffixes if suffix not in COMPRESSIONS), "")


def _scan_file(path: Path, features: Container[str]) -> pl.LazyFrame:
    suffix = _suffix(path)
    if suffix in PARQUET:
        return pl.scan_parquet(path, glob=False)
    if suffix in ARROW:
        return pl.scan_ipc(path, glob=False)
    if suffix in JSON_LINES:
        return pl.scan_ndjson(glob.escape(str(path)))
    if suffix in CSV:
        # Read the header as one column, with a separator that does not occur in it.
        header = pl.read_csv(
            path, has_header=False, n_rows=1, separator="\x01", quote_char=None, glob=False
        )
        line = str(header.item())
        declared = SEPARATOR_LINE.fullmatch(line)
        separator = (
            declared[1] if declared else max(SEPARATORS, key=re.sub('"[^"]*"', "", line).count)
        )
        table = pl.scan_csv(
            path,
            separator=separator,
            skip_lines=1 if declared else 0,
            infer_schema=False,
            glob=False,
        )
        names = {name: name.strip(BLANKS) for name in table.collect_schema()}
        first, name = next(iter(names.items()))
        # Keep the index if --columns made it a feature.
        if INDEX_NAME.fullmatch(name) and name not in features:
            table = table.drop(first)
            del names[first]
        return table.rename(names)
    raise MonitoringError(
        f"{path}: retraining cannot extend this format; expected {', '.join(SUFFIXES[:-1])} or "
        f"{SUFFIXES[-1]}"
    )


def _as_table(texts: pl.DataFrame, schema: pl.Schema) -> tuple[pl.DataFrame, pl.Series]:
    """Return logged cells with the types of the original table, and a mask of valid rows.

    In the other rows, cells that do not fit their column's type are null.
    """
    table = pl.DataFrame([_as_column(texts[name], dtype) for name, dtype in schema.items()])
    is_null = pl.all().is_null()
    fits = table.select(is_null) == texts.select(is_null)
    return table, fits.select(pl.all_horizontal(pl.all())).to_series()


def _as_column(texts: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Convert texts to a type, or to a wider one if values would be lost."""
    if dtype == pl.String:
        return texts
    if dtype == pl.Boolean:
        return texts.replace_strict(["true", "false"], [True, False], default=None)
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        # Gateways log midnight as a date without a time.
        timestamps = texts.str.replace("^(.{10})$", "${1}T00:00:00Z")
        wide = timestamps.str.to_datetime("%+", time_zone="UTC", strict=False)
        narrow = wide.cast(dtype, strict=False)
    elif dtype.is_numeric() and not dtype.is_float():
        # Cast directly: floats cannot hold every integer.
        narrow, wide = texts.cast(dtype, strict=False), texts.cast(pl.Float64, strict=False)
    else:
        return texts.cast(dtype, strict=False)
    return narrow if narrow.cast(wide.dtype).eq_missing(wide).all() else wide


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def _row_count(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())
