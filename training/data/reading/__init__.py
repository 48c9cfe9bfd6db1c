"""Tables from outside: CSV (also gzipped, also from standard input), Parquet, directories, globs.

A source yields its rows as parts of bounded size, so that a table may be larger than memory.
polars parses; what is wrong with a file is told with file, line and column.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from training.data.reading.csv_file import CsvFile
from training.data.reading.frame_file import FrameFile, ParquetFile
from training.data.reading.part import File, Parsers, Part
from training.errors import DataError

__all__ = ["STANDARD_INPUT", "FrameFile", "Parsers", "Part", "Source", "open_source"]

STANDARD_INPUT = "-"
PARQUET_SUFFIXES = (".parquet", ".pq")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


@dataclass(frozen=True)
class Source:
    """A table in one or several files.

    Attributes:
        name: how it was called.
        files: in the order in which their rows are read; all have the same columns.
    """

    name: str
    files: Sequence[File]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the first file."""
        return self.files[0].columns

    @property
    def separator(self) -> str:
        """What stands between the fields of the first file; empty if it is not text."""
        return self.files[0].separator

    @property
    def can_be_read_again(self) -> bool:
        """Whether the rows are there a second time; those of a stream are not."""
        return not any(file.is_stream for file in self.files)

    def head(self) -> Part:
        """Return the first rows as they stand in the first file, to detect kinds by.

        Raises:
            DataError: the file is malformed.
        """
        return self.files[0].head()

    def parts(self, parsers: Parsers, worker: int = 0, workers: int = 1) -> Iterator[Part]:
        """Read the columns that have a parser.

        Args:
            parsers: how to read each column.
            worker: who reads; it gets the parts from the `worker`-th on.
            workers: how many share the parts; each gets every `workers`-th.

        Raises:
            DataError: a file is malformed, or a value is not of its column's kind.
        """
        loads = (load for file in self.files for load in file.parts(parsers))
        with ThreadPoolExecutor(1) as pool:  # reads the next part while this one is worked on
            pending: Future[Part] | None = None
            for load in islice(loads, worker, None, workers):
                following = pool.submit(load)
                if pending is not None:
                    yield pending.result()
                pending = following
            if pending is not None:
                yield pending.result()


def open_source(name: str) -> Source:
    """Look at what `--data` names.

    Args:
        name: a file, a directory, a glob pattern, or `-` for standard input.

    Raises:
        DataError: nothing is there, or it is not a table.
    """
    if name == STANDARD_INPUT:
        return Source("standard input", [CsvFile("standard input", sys.stdin.buffer)])
    files = [_open_file(path) for path in _paths(name)]
    for file in files[1:]:
        for column in sorted(set(file.columns) ^ set(files[0].columns)):
            has, lacks = (file, files[0]) if column in file.columns else (files[0], file)
            raise DataError(f"{has.name} has a column {column!r} that {lacks.name} lacks")
    return Source(name, files)


def _open_file(path: Path) -> File:
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return ParquetFile(path)
    return CsvFile(str(path))


def _paths(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        suffixes = PARQUET_SUFFIXES + TEXT_SUFFIXES
        found = [p for p in sorted(path.iterdir()) if p.name.lower().endswith(suffixes)]
        if not found:
            raise DataError(f"{name}: no file in this directory ends in {', '.join(suffixes)}")
        return found
    if path.exists():
        return [path]
    found = [Path(p) for p in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    if not found:
        raise DataError(f"{name}: no such file, directory or built-in table")
    return found
