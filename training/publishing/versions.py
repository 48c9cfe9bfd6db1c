"""Version directories, published atomically.

TensorFlow Serving loads a version as soon as a directory whose name is an integer appears under
the model's base path. So a version is written to a hidden sibling of the base path, flushed to
disk, and renamed into place; rename is atomic and never replaces a directory that holds files.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VERSION_NAME = re.compile(r"[0-9]+")
MAX_VERSION = 2**63 - 1  # a server reads the number as an int64
MAX_NAME_LENGTH = 200


def versions(base_path: Path) -> list[int]:
    """Return the numbers of the published versions, oldest first."""
    if not base_path.is_dir():
        return []
    return sorted(int(p.name) for p in base_path.iterdir() if VERSION_NAME.fullmatch(p.name))


def publish(write: Callable[[Path], None], models: Path, name: str) -> Path:
    """Publish a directory filled by `write` as the model's next version; return `models/name/N`.

    Several jobs may publish at once; each gets its own version number. If `write` raises, nothing
    is published.

    Raises:
        OSError: a directory cannot be created or written; nothing is published.
    """
    base_path = models / name
    base_path.mkdir(parents=True, exist_ok=True)
    with _hidden_directory(models, name) as hidden:
        write(hidden)
        _sync_tree(hidden)
        version = _rename_to_next_version(hidden, base_path)
    _sync(base_path)
    return version


def republish(models: Path, name: str, number: int, amend: Callable[[Path], None]) -> Path:
    """Publish a copy of an older version as the next version.

    Nothing is removed and numbers only grow, so every server loads the copy and history remains.
    `amend` changes the copy before it is published.

    Raises:
        OSError: there is no such version, or the copy cannot be written.
    """

    def copy(directory: Path) -> None:
        shutil.copytree(models / name / str(number), directory, dirs_exist_ok=True)
        amend(directory)

    return publish(copy, models, name)


def keep_newest(models: Path, name: str, count: int) -> None:
    """Remove all but the newest versions, each atomically.

    Directories with leading zeros, which `publish` never makes, are left alone.
    """
    for number in versions(models / name)[:-count]:
        # Another job may remove it first.
        with _hidden_directory(models, name) as hidden, suppress(FileNotFoundError):
            (models / name / str(number)).rename(hidden / "removed")


def _rename_to_next_version(hidden: Path, base_path: Path) -> Path:
    number = max(versions(base_path), default=0) + 1
    while True:
        if number > MAX_VERSION:
            raise OSError(f"{base_path} has no version number left: the largest is taken")
        target = base_path / str(number)
        try:
            hidden.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            number += 1  # another job took this number first
        else:
            return target


@contextmanager
def _hidden_directory(models: Path, name: str) -> Iterator[Path]:
    """Create `.<name>.tmp-…`, lock it while it is in use, and remove it."""
    prefix = f".{name}.tmp-"
    hidden = models / f"{prefix}{secrets.token_hex(8)}"
    with _lock(models):  # no other job may clean up between creating the directory and locking it
        for leftover in models.glob(f"{glob.escape(prefix)}*"):
            _remove_if_abandoned(leftover)
        hidden.mkdir()
        descriptor = os.open(hidden, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(descriptor)


def _remove_if_abandoned(directory: Path) -> None:
    """Remove a hidden directory unless a running job holds its lock."""
    try:
        with _lock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(directory, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        pass


@contextmanager
def _lock(directory: Path, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def _sync_tree(top: Path) -> None:
    for directory, _, files in os.walk(top, topdown=False):
        for file in files:
            _sync(Path(directory, file))
        _sync(Path(directory))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
