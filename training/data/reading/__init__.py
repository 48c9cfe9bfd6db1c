"""Tables from files: CSV, JSON Lines, Parquet and Arrow IPC; also compressed, and in directories.

A source yields its rows in batches of bounded size, so a table may be larger than memory. polars
parses; errors name the file, the line and the column.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import polars as pl

from training.data.reading import streams
from training.data.reading.batch import File, Parsers, RecordBatch
from training.data.reading.csv_file import CsvFile
from training.data.reading.formats import HEAD_BYTES, Format, detect_format
from training.data.reading.frame_file import ArrowFile, FrameFile, ParquetFile
from training.data.reading.json_lines import JsonLinesFile
from training.data.reading.paths import TableFile, find_files
from training.errors import DataError, EmptyFileError
from training.features.cells import BLANKS

__all__ = ["STANDARD_INPUT", "FrameFile", "Parsers", "RecordBatch", "Source", "open_source"]

STANDARD_INPUT = "-"
PARQUET_SUFFIXES = (".parquet", ".pq")
FILES: Mapping[Format, type[CsvFile | JsonLinesFile | ParquetFile | ArrowFile]] = {
    "csv": CsvFile,
    "json lines": JsonLinesFile,
    "parquet": ParquetFile,
    "arrow": ArrowFile,
}
FORMAT_NAMES = {"parquet": "a Parquet file", "arrow": "an Arrow IPC file"}
T = TypeVar("T")
# Batches that are read and parsed while the caller processes one.
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Source:
    """A table in one or several files.

    Attributes:
        name: the source as given on the command line.
        files: the files in reading order; all have the same columns.
        test: a separate table, held out instead of rows of this one.
    """

    name: str
    files: Sequence[File]
    test: Source | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the first file."""
        return self.files[0].columns

    @property
    def left_out(self) -> Mapping[str, str]:
        """Columns added by the program that wrote the table, with the reason to leave them out."""
        return {name: why for file in self.files for name, why in file.left_out.items()}

    @property
    def separator(self) -> str:
        """The field separator of the first file; empty if it is not CSV."""
        return self.files[0].separator

    @property
    def can_be_read_again(self) -> bool:
        """Whether the rows can be read a second time, which a stream does not allow."""
        return not any(file.is_stream for file in self.files) and (
            self.test is None or self.test.can_be_read_again
        )

    def head(self) -> RecordBatch:
        """Return the first rows, unparsed, for detecting kinds.

        Columns from the files' paths cycle through the values of all files.

        Raises:
            DataError: the file is malformed.
        """
        batch = self.files[0].head()
        for name in self.files[0].constants:
            values = islice(cycle([f.constants[name] for f in self.files]), len(batch.frame))
            batch.frame.replace_column(batch.frame.get_column_index(name), pl.Series(name, values))
        return batch

    def batches(self, parsers: Parsers, worker: int = 0, workers: int = 1) -> Iterator[RecordBatch]:
        """Read the columns that have a parser.

        Args:
            parsers: the parser of each column.
            worker: index of this worker, which starts at batch `worker`.
            workers: number of workers; each reads every `workers`-th batch.

        Raises:
            DataError: a file is malformed, or a value is not of its column's kind.
        """
        loaders = islice(
            (load for file in self.files for load in file.batch_loaders(parsers)),
            worker,
            None,
            workers,
        )
        # One thread reads and decompresses, another parses, and the caller processes a batch.
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as parsing:

            def submit_next() -> Future[RecordBatch] | None:
                load: Callable[[], RecordBatch] | None = next(loaders, None)
                return None if load is None else parsing.submit(load)

            # Read a stream in this thread: a signal cannot interrupt another that waits for data.
            submit = reading.submit if self.can_be_read_again else _run_now
            ahead = deque(submit(submit_next) for _ in range(BATCHES_AHEAD))
            while (pending := ahead.popleft().result()) is not None:
                ahead.append(submit(submit_next))
                yield pending.result()


def _run_now(function: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(function())
    return future


def open_source(name: str) -> Source:
    """Open the table that `--data` names: a file, a directory, a glob, or - for standard input.

    Raises:
        DataError: nothing is there, or it is not a table.
    """
    if name == STANDARD_INPUT:
        file = _open_standard_input()
        _check_columns([file])
        return Source(file.name, [file])
    files: list[File] = []
    first_error: EmptyFileError | None = None
    for table_file in find_files(name):
        try:
            files.append(_open_file(table_file))
        except EmptyFileError as error:  # parallel writers also produce empty files
            first_error = first_error or error
    if first_error is not None and not files:
        raise first_error
    _check_columns(files)
    return Source(name, files)


def _check_columns(files: Sequence[File]) -> None:
    for file in files:
        for column in file.columns:
            # In CSV files and tables for predictions, blanks around names are stripped.
            if column != column.strip(BLANKS):
                raise DataError(
                    f"{file.name}: the column name {column!r} begins or ends with a blank"
                )
    left_out = {name for file in files for name in file.left_out}
    for file in files[1:]:
        for column in sorted((set(file.columns) ^ set(files[0].columns)) - left_out):
            has, lacks = (file, files[0]) if column in file.columns else (files[0], file)
            raise DataError(f"{has.name} has a column {column!r} that {lacks.name} lacks")


def _open_file(table_file: TableFile) -> File:
    name, partition = str(table_file.path), table_file.partition
    if table_file.path.suffix.lower() in PARQUET_SUFFIXES:
        file: File = ParquetFile(name, constants=partition)
    else:
        with streams.open_stream(name) as stream:
            head = stream.read(HEAD_BYTES)
        form = detect_format(name, head)
        if form in ("parquet", "arrow"):
            _refuse_compressed(name, form, head)
        file = FILES[form](name, constants=partition)
    for column in partition:
        if file.columns.count(column) > 1:
            raise DataError(
                f"{name}: the column {column!r} is both in the file and in its directory's name"
            )
    return file


def _open_standard_input() -> File:
    name = "standard input"
    opened = streams.open_stream(name, sys.stdin.buffer)
    stream = opened.__enter__()  # stays open while batches are read
    head = stream.read(HEAD_BYTES)
    form = detect_format(name, head)
    content = cast(BinaryIO, io.BufferedReader(streams.PrefixedStream(head, stream, opened)))
    if form == "csv":
        return CsvFile(name, content)
    if form == "json lines":
        return JsonLinesFile(name, content)
    raise DataError(
        f"{name} is {FORMAT_NAMES[form]}, which cannot be read from standard input; name the file"
    )


def _refuse_compressed(name: str, form: Format, head: bytes) -> None:
    with Path(name).open("rb") as file:
        if file.read(4) != head[:4]:
            raise DataError(f"{name} is {FORMAT_NAMES[form]} that is compressed; decompress it")
