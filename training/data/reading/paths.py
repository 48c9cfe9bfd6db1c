"""The files of a table: one file, a directory, or a glob pattern."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from training.errors import DataError

TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".tab", ".txt", ".ndjson", ".jsonl", ".json"),
    *(".parquet", ".pq", ".arrow", ".feather", ".ipc"),
)
COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
# Files that Spark, Hadoop and Dask write beside the parts of a table.
MARKERS = ("_SUCCESS", "_metadata", "_common_metadata")
# Hive's name for a missing value.
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"
PARTITION = re.compile(r"([^=]+)=(.*)")


@dataclass(frozen=True)
class Found:
    """A file of a table.

    Attributes:
        path: its path.
        partition: columns given by the names of its directories (`year=2024`).
    """

    path: Path
    partition: Mapping[str, str] = field(default_factory=dict)


def find(name: str) -> list[Found]:
    """Return the files in the order in which their rows are read.

    Raises:
        DataError: there are none.
    """
    path = Path(name)
    if path.is_dir():
        found = list(_in_directory(path, {}))
        if not found:
            raise DataError(
                f"{name}: no file in this directory ends in {', '.join(TABLE_SUFFIXES)}"
                f"{_contents(path)}"
            )
        return found
    if path.exists():
        return [Found(path)]
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file() and not _ignored(match)]
    if not files:
        raise DataError(f"{name}: no such file, directory or built-in table")
    fixed = sum(1 for _ in _before_wildcard(path.parts))
    return [Found(file, _partition(file.parts[fixed:-1])) for file in files]


def _in_directory(directory: Path, partition: Mapping[str, str]) -> Iterator[Found]:
    for path in sorted(directory.iterdir()):
        if _ignored(path):
            continue
        if path.is_dir():
            if PARTITION.fullmatch(path.name):
                yield from _in_directory(path, {**partition, **_partition([path.name])})
        elif _is_table(path):
            yield Found(path, partition)


def _ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name in MARKERS


def _is_table(path: Path) -> bool:
    name = path.name.lower()
    for suffix in COMPRESSION_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(TABLE_SUFFIXES)


def _partition(names: Iterable[str]) -> dict[str, str]:
    pairs = [match.groups() for match in map(PARTITION.fullmatch, names) if match]
    return {
        unquote(key): "" if value == MISSING_PARTITION else unquote(value) for key, value in pairs
    }


def _before_wildcard(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _contents(directory: Path) -> str:
    names = [path.name + "/" * path.is_dir() for path in sorted(directory.iterdir())[:5]]
    if not names:
        return "; it is empty"
    nested = any(name.endswith("/") for name in names)
    hint = f"; '{directory}/**/*.csv' reads files below it" if nested else ""
    return f"; it has {', '.join(names)}{hint}"
