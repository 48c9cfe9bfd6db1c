"""Tables whose columns have types: Parquet files, and tables in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl

from training.data.reading.part import ROWS_PER_PART, File, Parsers, Part, converted
from training.errors import DataError


class FrameFile(File):
    """A table in memory."""

    def __init__(self, name: str, frame: pl.DataFrame) -> None:
        self.name = name
        self.columns = tuple(frame.columns)
        self._frame = frame

    def head(self) -> Part:
        """Return the first rows."""
        return Part(self._frame[:ROWS_PER_PART], lambda row: f"{self.name} row {1 + row}")

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""
        return _parts(self.name, self._frame.iter_slices(ROWS_PER_PART), parsers)


class ParquetFile(File):
    """A Parquet file; a few of its row groups are in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self.columns = tuple(pl.read_parquet_schema(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error

    def head(self) -> Part:
        """Return the first rows."""
        try:
            frame = pl.scan_parquet(self._path).head(ROWS_PER_PART).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error
        return Part(frame, lambda row: f"{self.name} row {1 + row}")

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""
        batches = pl.scan_parquet(self._path).select(list(parsers)).collect_batches(lazy=True)
        try:
            yield from _parts(self.name, _equal_slices(batches), parsers)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error


def _parts(
    name: str, frames: Iterable[pl.DataFrame], parsers: Parsers
) -> Iterator[Callable[[], Part]]:
    first = 1
    for frame in frames:
        yield _loader(name, first, frame, parsers)
        first += len(frame)


def _loader(name: str, first: int, frame: pl.DataFrame, parsers: Parsers) -> Callable[[], Part]:
    return lambda: converted(Part(frame, lambda row: f"{name} row {first + row}"), parsers)


def _equal_slices(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Cut batches of any size into slices whose size depends on nothing but the rows."""
    pending: pl.DataFrame | None = None
    for batch in batches:
        pending = batch if pending is None else pending.vstack(batch)
        while len(pending) >= ROWS_PER_PART:
            yield pending[:ROWS_PER_PART].rechunk()
            pending = pending[ROWS_PER_PART:]
    if pending is not None and len(pending):
        yield pending.rechunk()
