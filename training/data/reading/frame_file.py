"""Tables whose columns have types: Parquet and Arrow IPC files, and tables in memory."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping

import polars as pl

from training.data.reading.part import (
    ROWS_PER_PART,
    File,
    Parsers,
    Part,
    converted,
    with_constants,
)
from training.data.reading.streams import reading
from training.errors import DataError, EmptyFileError

# Names that pandas and Dask give to an unnamed index.
PANDAS_INDEX = re.compile(r"__index_level_\d+__|__null_dask_index__")


class FrameFile(File):
    """A table in memory."""

    def __init__(self, name: str, frame: pl.DataFrame) -> None:
        self.name = name
        self.columns = tuple(frame.columns)
        self._frame = frame

    def head(self) -> Part:
        """Return the first rows."""
        return _part(self.name, 1, self._frame[:ROWS_PER_PART])

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield, for each part, a function that reads it."""
        return _parts(self.name, self._frame.iter_slices(ROWS_PER_PART), parsers, {})


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
            raise DataError(f"{name}: not {self.format_name} that can be read: {reason}") from error
        if not rows:
            raise EmptyFileError(f"{name}: expected rows, found none")
        self.columns = (*types, *self.constants)
        index += [column for column in types if PANDAS_INDEX.fullmatch(column)]
        self.left_out = {column: "pandas index" for column in index if column in types}

    def head(self) -> Part:
        """Return the first rows."""
        with reading(self.name):
            frame = self._scan().head(ROWS_PER_PART).collect()
        return _part(self.name, 1, with_constants(frame, self.constants))

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield, for each part, a function that reads it."""
        stored = [column for column in parsers if column not in self.constants]
        stored = stored or [self.columns[0]]  # a frame without columns has no rows
        batches = (
            self._scan()
            .select(stored)
            .collect_batches(lazy=True, maintain_order=True, chunk_size=ROWS_PER_PART)
        )
        with reading(self.name):
            yield from _parts(self.name, _equal_slices(batches), parsers, self.constants)

    @property
    @abstractmethod
    def format_name(self) -> str:
        """The format with its article."""

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
        stored = pl.read_parquet_metadata(self.name).get("pandas", "{}")
        return [c for c in json.loads(stored).get("index_columns", ()) if isinstance(c, str)]


class ArrowFile(StoredFrame):
    """An Arrow IPC file, which is also Feather version 2."""

    format_name = "an Arrow IPC file"

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_ipc(self.name, glob=False, hive_partitioning=False)


def _parts(
    name: str,
    frames: Iterable[pl.DataFrame],
    parsers: Parsers,
    constants: Mapping[str, str],
) -> Iterator[Callable[[], Part]]:
    first = 1
    for frame in frames:
        yield _loader(name, first, with_constants(frame, constants), parsers)
        first += len(frame)


def _loader(name: str, first: int, frame: pl.DataFrame, parsers: Parsers) -> Callable[[], Part]:
    return lambda: converted(_part(name, first, frame), parsers)


def _part(name: str, first: int, frame: pl.DataFrame) -> Part:
    return Part(frame, lambda row: f"{name} row {first + row}")


def _equal_slices(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Cut batches of any size into slices of equal size."""
    pending: pl.DataFrame | None = None
    for batch in batches:
        pending = batch if pending is None else pending.vstack(batch)
        while len(pending) >= ROWS_PER_PART:
            yield pending[:ROWS_PER_PART].rechunk()
            pending = pending[ROWS_PER_PART:]
    if pending is not None and len(pending):
        yield pending.rechunk()
