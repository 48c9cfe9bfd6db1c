"""Tables whose columns have types: Parquet and Arrow IPC files, and tables in memory."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping

import polars as pl

from training.data.reading.batch import (
    BATCH_ROWS,
    File,
    Parsers,
    RecordBatch,
    parse_columns,
    with_constants,
)
from training.data.reading.streams import wrap_errors
from training.errors import DataError, EmptyFileError

# Names that pandas and Dask give to an unnamed index.
PANDAS_INDEX = re.compile(r"__index_level_\d+__|__null_dask_index__")


class FrameFile(File):
    """A table in memory."""

    def __init__(self, name: str, frame: pl.DataFrame) -> None:
        self.name = name
        self.columns = tuple(frame.columns)
        self._frame = frame

    def head(self) -> RecordBatch:
        """Return the first rows."""
        return _record_batch(self.name, 1, self._frame[:BATCH_ROWS])

    def batch_loaders(self, parsers: Parsers) -> Iterator[Callable[[], RecordBatch]]:
        """Yield, for each batch, a function that reads it."""
        return _loaders(self.name, self._frame.iter_slices(BATCH_ROWS), parsers, {})


class StoredFrame(File):
    """A file with typed columns, of which only a few batches are in memory at a time."""

    def __init__(self, name: str, constants: Mapping[str, str] | None = None) -> None:
        """Read the file's schema.

        Raises:
            DataError: it cannot be read.
        """
        self.name = name
        self.constants = constants or {}
        try:
            frame = self._scan()
            types = frame.collect_schema()
            rows = frame.select(pl.len()).collect().item()
            index = self._index_columns()
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{name}: cannot be read as {self.format_name}: {reason}") from error
        if not rows:
            raise EmptyFileError(f"{name}: expected rows, found none")
        self.columns = (*types, *self.constants)
        index += [column for column in types if PANDAS_INDEX.fullmatch(column)]
        self.left_out = {column: "pandas index" for column in index if column in types}

    def head(self) -> RecordBatch:
        """Return the first rows."""
        with wrap_errors(self.name):
            frame = self._scan().head(BATCH_ROWS).collect()
        return _record_batch(self.name, 1, with_constants(frame, self.constants))

    def batch_loaders(self, parsers: Parsers) -> Iterator[Callable[[], RecordBatch]]:
        """Yield, for each batch, a function that reads it."""
        names = [column for column in parsers if column not in self.constants]
        names = names or [self.columns[0]]  # a frame without columns has no rows
        batches = (
            self._scan()
            .select(names)
            .collect_batches(lazy=True, maintain_order=True, chunk_size=BATCH_ROWS)
        )
        with wrap_errors(self.name):
            yield from _loaders(self.name, _rebatch(batches), parsers, self.constants)

    @property
    @abstractmethod
    def format_name(self) -> str:
        """The name of the format with its article, for errors."""

    @abstractmethod
    def _scan(self) -> pl.LazyFrame: ...

    def _index_columns(self) -> list[str]:
        return []


class ParquetFile(StoredFrame):
    """A Parquet file."""

    format_name = "a Parquet file"

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.name, glob=False, hive_partitioning=False)

    def _index_columns(self) -> list[str]:
        """Return the columns that hold the index of a pandas table.

        See https://pandas.pydata.org/docs/development/developer.html; a RangeIndex is metadata,
        not a column.
        """
        metadata = pl.read_parquet_metadata(self.name).get("pandas", "{}")
        return [c for c in json.loads(metadata).get("index_columns", ()) if isinstance(c, str)]


class ArrowFile(StoredFrame):
    """An Arrow IPC file, which is also Feather version 2."""

    format_name = "an Arrow IPC file"

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_ipc(self.name, glob=False, hive_partitioning=False)


def _loaders(
    name: str,
    frames: Iterable[pl.DataFrame],
    parsers: Parsers,
    constants: Mapping[str, str],
) -> Iterator[Callable[[], RecordBatch]]:
    first = 1
    for frame in frames:
        yield _loader(name, first, with_constants(frame, constants), parsers)
        first += len(frame)


def _loader(
    name: str, first: int, frame: pl.DataFrame, parsers: Parsers
) -> Callable[[], RecordBatch]:
    return lambda: parse_columns(_record_batch(name, first, frame), parsers)


def _record_batch(name: str, first: int, frame: pl.DataFrame) -> RecordBatch:
    return RecordBatch(frame, lambda row: f"{name} row {first + row}")


def _rebatch(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Cut batches of any size into slices of equal size."""
    pending: pl.DataFrame | None = None
    for batch in batches:
        pending = batch if pending is None else pending.vstack(batch)
        while len(pending) >= BATCH_ROWS:
            yield pending[:BATCH_ROWS].rechunk()
            pending = pending[BATCH_ROWS:]
    if pending is not None and len(pending):
        yield pending.rechunk()
