"""Build the table of a retraining from the training table and labelled rows of the log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from monitoring.errors import MonitoringError
from monitoring.quality import QUALITY_COLUMNS, labelled_rows
from monitoring.store import DATASETS, Store, write_parquet
from monitoring.versions import Version

# Columns of a dataset besides those of the original table.
ID, WEIGHT = "prediction id", "row weight"
SEPARATORS = ",;\t|"
CSV_ENDINGS = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Provenance:
    """Where the rows of a dataset come from.

    Attributes:
        model: name of the model.
        time: when the dataset was built, ISO 8601.
        reason: reason for the retraining.
        data: the original table.
        original_rows: number of its rows.
        labelled_rows: rows of the log with a label.
        start, end: time of the predictions used.
        rows_by_version: labelled rows by the version that answered.
        incomplete: labelled rows left out because they lack a column.
        weighted: whether rows are weighted by 1/share; if not, every share was 1.
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
    """A dataset, `rows/` and `provenance.json` in a directory."""

    directory: Path
    provenance: Provenance

    @property
    def rows(self) -> Path:
        """The directory of the table's files."""
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
        version: its newest version, for columns and classes.
        data: the original table: a file, a directory or a glob.
        label: the label column.
        start: use predictions from this time on.
        now: the time.
        reason: recorded in the provenance.

    Raises:
        MonitoringError: the training table cannot be read, columns cannot be added to it, or the
            log lacks columns.
    """
    directory = store.directory / DATASETS / f"{now:%Y%m%dT%H%M%S%f}"
    with _new_directory(directory, data):
        original = _original(data)
        schema = original.collect_schema()
        if label not in schema:
            raise MonitoringError(f"{data} has no column {label!r}; --label names it")
        # With the lock, `forget` finds each row in the log or in the dataset.
        with store.locked(exclusive=False):
            rows, cells, incomplete = _complete_rows(store, model, version, start)
            labelled = pl.DataFrame(
                {
                    name: _as_table(
                        rows["actual"] if name == label else [row.get(name) for row in cells], dtype
                    )
                    for name, dtype in schema.items()
                }
            ).with_columns(rows["id"].alias(ID))
            original = original.with_columns(pl.lit(None, pl.String).alias(ID))
            weighted = bool((rows["share"] < 1).any())
            if weighted:
                labelled = labelled.with_columns((1 / rows["share"]).alias(WEIGHT))
                original = original.with_columns(pl.lit(1.0).alias(WEIGHT))
            if len(labelled):
                write_parquet(directory / "rows" / "labelled.parquet", labelled)
        original.sink_parquet(directory / "rows" / "original.parquet")
        counted = rows["version"].value_counts(name="count").sort("version").rows()
        provenance = Provenance(
            model=model,
            time=now.isoformat(timespec="seconds"),
            reason=reason,
            data=data,
            original_rows=_count(directory / "rows" / "original.parquet"),
            labelled_rows=len(labelled),
            start=start.isoformat(timespec="seconds"),
            end=now.isoformat(timespec="seconds"),
            rows_by_version={str(number): count for number, count in counted},
            incomplete=incomplete,
            weighted=weighted,
        )
        text = json.dumps(asdict(provenance), indent=2, ensure_ascii=False)
        (directory / "provenance.json").write_text(text + "\n", encoding="utf-8")
    return Dataset(directory, provenance)


@contextmanager
def _new_directory(directory: Path, data: str) -> Iterator[None]:
    """Make the directory of a dataset, and remove it if the block fails.

    Raises:
        MonitoringError: polars cannot read the training table or add columns to it.
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
    """Return labelled rows that have all columns, their cells, and the number of other rows.

    Raises:
        MonitoringError: none has them.
    """
    rows, _ = labelled_rows(store, model, start, (*QUALITY_COLUMNS, "columns"))
    rows = rows.filter(pl.col("actual").is_in(version.reference.class_names))
    cells = [orjson.loads(text) for text in rows["columns"]]
    features = [c.name for c in version.reference.columns if c.name]
    complete = [all(name in row for name in features) for row in cells]
    if cells and not any(complete):
        lacking = [name for name in features if name not in cells[0]]
        raise MonitoringError(
            f"logged rows of {model!r} lack the columns {', '.join(map(repr, lacking))}; they are "
            "in CLIENT_LOG_LEAVE_OUT, or the requests do not have them"
        )
    rows = rows.filter(pl.Series(complete, dtype=pl.Boolean))
    cells = [row for row, whole in zip(cells, complete, strict=True) if whole]
    return rows, cells, complete.count(False)


def _original(data: str) -> pl.LazyFrame:
    """Return the original table; CSV cells stay text, which the training job parses."""
    path = Path(data)
    paths = sorted(path.iterdir() if path.is_dir() else path.parent.glob(path.name))
    files = [one for one in paths if one.is_file() and not one.name.startswith((".", "_"))]
    if not files:
        raise MonitoringError(f"{data}: no such file or directory; --data names the original table")
    return pl.concat([_scan(one) for one in files])


def _scan(path: Path) -> pl.LazyFrame:
    suffix = next((s for s in reversed(path.suffixes) if s not in (".gz", ".zst")), "")
    if suffix == ".parquet":
        return pl.scan_parquet(path)
    if suffix in (".feather", ".arrow", ".ipc"):
        return pl.scan_ipc(path)
    if suffix in (".ndjson", ".jsonl"):
        return pl.scan_ndjson(path)
    if suffix in CSV_ENDINGS:
        # With a separator that is not in the file, the header is one column.
        header = pl.read_csv(path, has_header=False, n_rows=1, separator="\x01", quote_char=None)
        line = str(header.item())
        separator = max(SEPARATORS, key=line.count)
        return pl.scan_csv(path, separator=separator, infer_schema=False)
    raise MonitoringError(
        f"{path}: expected .csv, .tsv, .parquet, .feather or .ndjson, which retraining can extend"
    )


def _as_table(values: Iterable[Any], dtype: pl.DataType) -> pl.Series:
    """Convert JSON values to cells of a column of the original table."""
    texts = pl.Series([_as_text(value) for value in values], dtype=pl.String)
    if dtype == pl.String:
        return texts
    if dtype == pl.Boolean:
        return texts.replace_strict(["true", "false"], [True, False], default=None)
    if dtype == pl.Date:
        return texts.str.head(10).str.to_date(strict=False)
    if isinstance(dtype, pl.Datetime):
        return texts.str.to_datetime(strict=False, time_zone="UTC").cast(dtype)
    if dtype.is_numeric():
        return texts.cast(pl.Float64, strict=False).cast(dtype, strict=False)
    return texts.cast(dtype, strict=False)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def _count(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())
