"""Tables from files: CSV, JSON Lines, Parquet and Arrow IPC; also compressed, and in directories.

A source yields its rows as parts of bounded size, so a table may be larger than memory. polars
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
from training.data.reading.csv_file import CsvFile
from training.data.reading.formats import HEAD_BYTES, Format, recognise
from training.data.reading.frame_file import ArrowFile, FrameFile, ParquetFile
from training.data.reading.json_lines import JsonLinesFile
from training.data.reading.part import File, Parsers, Part
from training.data.reading.paths import Found, find
from training.errors import DataError, EmptyFileError
from training.features.cells import BLANKS

__all__ = ["STANDARD_INPUT", "FrameFile", "Parsers", "Part", "Source", "open_source"]

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
# Parts that are parsed while one is worked on.
PARTS_AHEAD = 2


@dataclass(frozen=True)
class Source:
    """A table in one or several files.

    Attributes:
        name: its name on the command line.
        files: the files in reading order; all have the same columns.
        test: a separate table whose rows are all held out; then no rows of this one are.
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
        """Columns added by a program that stored the table, with the reason to leave them out."""
        return {name: why for file in self.files for name, why in file.left_out.items()}

    @property
    def separator(self) -> str:
        """The field separator of the first file; empty if it is not CSV."""
        return self.files[0].separator

    @property
    def can_be_read_again(self) -> bool:
        """Whether the rows can be read a second time; a stream's cannot."""
        return not any(file.is_stream for file in self.files) and (
            self.test is None or self.test.can_be_read_again
        )

    def head(self) -> Part:
        """Return the first rows, unparsed, for detecting kinds.

        A column in the files' paths has the values of all files in turn.

        Raises:
            DataError: the file is malformed.
        """
        part = self.files[0].head()
        for name in self.files[0].constants:
            values = islice(cycle([f.constants[name] for f in self.files]), len(part.frame))
            part.frame.replace_column(part.frame.get_column_index(name), pl.Series(name, values))
        return part

    def parts(self, parsers: Parsers, worker: int = 0, workers: int = 1) -> Iterator[Part]:
        """Read the columns that have a parser.

        Args:
            parsers: the parser of each column.
            worker: index of this worker, which starts at part `worker`.
            workers: number of workers; each reads every `workers`-th part.

        Raises:
            DataError: a file is malformed, or a value is not of its column's kind.
        """
        loads = islice(
            (load for file in self.files for load in file.parts(parsers)), worker, None, workers
        )
        # One thread reads and decompresses, another parses, and the caller works on a part.
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as parsing:

            def submit_next() -> Future[Part] | None:
                load: Callable[[], Part] | None = next(loads, None)
                return None if load is None else parsing.submit(load)

            # A stream is read here: a signal cannot end a thread that waits for more of it.
            start = reading.submit if self.can_be_read_again else _run_now
            ahead = deque(start(submit_next) for _ in range(PARTS_AHEAD))
            while (pending := ahead.popleft().result()) is not None:
                ahead.append(start(submit_next))
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
    empty: EmptyFileError | None = None
    for found in find(name):
        try:
            files.append(_open_file(found))
        except EmptyFileError as error:  # parallel programs also write empty parts
            empty = empty or error
    if empty is not None and not files:
        raise empty
    _check_columns(files)
    return Source(name, files)


def _check_columns(files: Sequence[File]) -> None:
    for file in files:
        for column in file.columns:
            # CSV has none: there, and in tables for predictions, blanks around names are removed.
            if column != column.strip(BLANKS):
                raise DataError(f"{file.name}: a blank begins or ends the column name {column!r}")
    left_out = {name for file in files for name in file.left_out}
    for file in files[1:]:
        for column in sorted((set(file.columns) ^ set(files[0].columns)) - left_out):
            has, lacks = (file, files[0]) if column in file.columns else (files[0], file)
            raise DataError(f"{has.name} has a column {column!r} that {lacks.name} lacks")


def _open_file(found: Found) -> File:
    name = str(found.path)
    if found.path.suffix.lower() in PARQUET_SUFFIXES:
        file: File = ParquetFile(name, constants=found.partition)
    else:
        with streams.opened(name) as stream:
            head = stream.read(HEAD_BYTES)
        form = recognise(name, head)
        if form in ("parquet", "arrow"):
            _refuse_packed(name, form, head)
        file = FILES[form](name, constants=found.partition)
    for column in found.partition:
        if file.columns.count(column) > 1:
            raise DataError(
                f"{name}: {column!r} is a column of the file and in the name of its directory"
            )
    return file


def _open_standard_input() -> File:
    name = "standard input"
    opened = streams.opened(name, sys.stdin.buffer)
    stream = opened.__enter__()  # stays open while parts are read
    head = stream.read(HEAD_BYTES)
    form = recognise(name, head)
    rewound = cast(BinaryIO, io.BufferedReader(streams.Rewound(head, stream, opened)))
    if form == "csv":
        return CsvFile(name, rewound)
    if form == "json lines":
        return JsonLinesFile(name, rewound)
    raise DataError(f"{name} is {FORMAT_NAMES[form]}, which is read from files only; name the file")


def _refuse_packed(name: str, form: Format, head: bytes) -> None:
    with Path(name).open("rb") as file:
        if file.read(4) != head[:4]:
            raise DataError(f"{name} is {FORMAT_NAMES[form]} that is compressed; decompress it")
