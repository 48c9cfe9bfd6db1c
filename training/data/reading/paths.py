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
class TableFile:
    """One of a table's files.

    Attributes:
        path: its path.
        partition: column values from the names of its directories (`year=2024`).
    """

    path: Path
    partition: Mapping[str, str] = field(default_factory=dict)


def find_files(name: str) -> list[TableFile]:
    """Return the files in the order in which their rows are read.

    Raises:
        DataError: there are none.
    """
    path = Path(name)
    if path.is_dir():
        table_files = list(_walk(path, {}))
        if not table_files:
            raise DataError(
                f"{name}: no file in this directory ends in {', '.join(TABLE_SUFFIXES)}"
                f"{_describe_contents(path)}"
            )
        return table_files
    if path.exists():
        return [TableFile(path)]
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file() and not _is_ignored(match)]
    if not files:
        raise DataError(f"{name}: no such file, directory or built-in table")
    literal_parts = sum(1 for _ in _before_wildcard(path.parts))
    return [TableFile(file, _parse_partition(file.parts[literal_parts:-1])) for file in files]


def _walk(directory: Path, partition: Mapping[str, str]) -> Iterator[TableFile]:
    for path in sorted(directory.iterdir()):
        if _is_ignored(path):
            continue
        if path.is_dir():
            if PARTITION.fullmatch(path.name):
                yield from _walk(path, {**partition, **_parse_partition([path.name])})
        elif _is_table(path):
            yield TableFile(path, partition)


def _is_ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name in MARKERS


def _is_table(path: Path) -> bool:
    name = path.name.lower()
    for suffix in COMPRESSION_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(TABLE_SUFFIXES)


def _parse_partition(names: Iterable[str]) -> dict[str, str]:
    pairs = [match.groups() for match in map(PARTITION.fullmatch, names) if match]
    return {
        unquote(key): "" if value == MISSING_PARTITION else unquote(value) for key, value in pairs
    }


def _before_wildcard(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _describe_contents(directory: Path) -> str:
    names = [path.name + "/" * path.is_dir() for path in sorted(directory.iterdir())[:5]]
    if not names:
        return "; it is empty"
    has_directories = any(name.endswith("/") for name in names)
    hint = f"; '{directory}/**/*.csv' reads files below it" if has_directories else ""
    return f"; it has {', '.join(names)}{hint}"
