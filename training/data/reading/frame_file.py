"""Tables whose columns have types: Parquet files, and tables in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from training.data.reading.part import ROWS_PER_PART, File, Kind, Part, converted
from training.errors import DataError


class FrameFile(File):
    """A table in memory."""

    def __init__(self, name: str, frame: pl.DataFrame) -> None:
        self.name = name
        self.columns = tuple(frame.columns)
        self._types = frame.schema
        self._frame = frame

    def kind(self, column: str) -> Kind:
        """Return the kind of a column by its type."""
        return kind_of_type(self._types[column], f"{self.name}, column {column!r}")

    def parts(self, kinds: Mapping[str, Kind]) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""
        return _parts(self.name, self._frame.iter_slices(ROWS_PER_PART), kinds)


class ParquetFile(File):
    """A Parquet file; a few of its row groups are in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self._types = pl.read_parquet_schema(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
        self.columns = tuple(self._types)

    def kind(self, column: str) -> Kind:
        """Return the kind of a column by its type."""
        return kind_of_type(self._types[column], f"{self.name}, column {column!r}")

    def parts(self, kinds: Mapping[str, Kind]) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""
        batches = pl.scan_parquet(self._path).select(list(kinds)).collect_batches(lazy=True)
        try:
            yield from _parts(self.name, _equal_slices(batches), kinds)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error


def kind_of_type(dtype: pl.DataType, place: str) -> Kind:
    """Return the kind of a column with this type.

    Raises:
        DataError: it is neither numbers, nor text, nor booleans.
    """
    if dtype.is_numeric():
        return "numeric"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "categorical"
    if dtype == pl.Null:
        return "numeric"
    raise DataError(
        f"{place}: expected numbers, text or booleans, got the type {dtype}; "
        "--leave-out leaves the column out"
    )


def _parts(
    name: str, frames: Iterable[pl.DataFrame], kinds: Mapping[str, Kind]
) -> Iterator[Callable[[], Part]]:
    first = 1
    for frame in frames:
        yield _loader(name, first, frame, kinds)
        first += len(frame)


def _loader(
    name: str, first: int, frame: pl.DataFrame, kinds: Mapping[str, Kind]
) -> Callable[[], Part]:
    return lambda: converted(Part(frame, lambda row: f"{name} row {first + row}"), kinds)


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
