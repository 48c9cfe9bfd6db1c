"""Segments: files of lines that one process writes and seals, and that never change afterwards.

`DIRECTORY/<host>-<pid>-<n>.ndjson.open` loses the suffix `.open` once it is complete and on disk.
The writer holds a lock on its open segment, so that the segments of dead processes are found.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 64 * 2**20
MAX_SECONDS = 60.0

_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)


class Segments:
    """Appends lines to a directory's segments; may be used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"{_UNSAFE.sub('_', socket.gethostname())}-{os.getpid()}"
        self._number = 0
        self._lock = threading.Lock()
        self._file: int | None = None
        self._path = directory
        self._size = 0
        self._opened = 0.0

    def append(self, lines: bytes) -> None:
        """Write whole lines: all of them, or none.

        Raises:
            OSError: they cannot be written.
        """
        with self._lock:
            file = self._open() if self._file is None else self._file
            try:
                remaining = memoryview(lines)
                while remaining:
                    remaining = remaining[os.write(file, remaining) :]
            except OSError:
                self._undo(file)
                raise
            self._size += len(lines)
            if self._size >= MAX_BYTES:
                self._seal()

    def tick(self) -> None:
        """Seal the segment if it is old enough.

        Raises:
            OSError: it cannot be sealed.
        """
        with self._lock:
            if self._file is not None and time.monotonic() - self._opened >= MAX_SECONDS:
                self._seal()

    def close(self) -> None:
        """Seal the segment.

        Raises:
            OSError: it cannot be sealed.
        """
        with self._lock:
            self._seal()

    def _open(self) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        while True:
            self._number += 1
            path = self._directory / f"{self._prefix}-{self._number}.ndjson.open"
            if path.with_suffix("").exists():
                continue  # left by an earlier process with the same id
            try:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
            except FileExistsError:
                continue
            try:
                # Another process may have mistaken it for a leftover in the meantime.
                locked = _lock(file) and path.exists()
            except OSError:
                os.close(file)
                path.unlink(missing_ok=True)
                raise
            if locked:
                break
            os.close(file)
        self._file, self._path, self._size = file, path, 0
        self._opened = time.monotonic()
        return file

    def _undo(self, file: int) -> None:
        """Remove a partially written line."""
        try:
            os.ftruncate(file, self._size)
        except OSError:
            # Readers skip a torn last line, so nothing may follow it.
            with suppress(OSError):
                self._seal()

    def _seal(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                _seal(file, self._path)
            finally:
                os.close(file)


def recover(directory: Path) -> int:
    """Seal the open segments of processes that have ended; return their number.

    Raises:
        OSError: one cannot be sealed.
    """
    count = 0
    for path in sorted(directory.glob("*.ndjson.open")):
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue  # another process was faster
        try:
            if _lock(file) and path.exists():
                _seal(file, path)
                count += 1
        finally:
            os.close(file)
    return count


def _seal(file: int, path: Path) -> None:
    """Force a segment to disk and rename it; remove an empty one."""
    if os.fstat(file).st_size:
        os.fsync(file)
        path.rename(path.with_suffix(""))
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    else:
        path.unlink()


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
