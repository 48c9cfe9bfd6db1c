"""How far each segment has been sent: `DIRECTORY/shipping.json`.

While the file exists, `compact` does not touch unsent segments, for up to `HOLD`.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from monitoring import segments
from monitoring.errors import MonitoringError
from monitoring.store import write_whole

STATE = "shipping.json"
HOLD = timedelta(days=7)


class Shipped:
    """The bytes of each segment that were sent.

    A segment is identified by its name, inode and modification time: names are reused when a
    container gets the process id of an earlier one, and `forget` replaces files.
    """

    def __init__(self, directory: Path) -> None:
        """Read the state.

        Raises:
            MonitoringError: it cannot be read.
        """
        self._directory = directory
        self._path = directory / STATE
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._saved = b""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            for name, (inode, changed, offset) in stored["segments"].items():
                self._sent[name] = int(inode), int(changed), int(offset)
        except FileNotFoundError:
            pass
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MonitoringError(
                f"{self._path}: not the state of `ship`: {error}; remove it to send all segments "
                "again"
            ) from error

    def offset(self, path: Path, found: os.stat_result) -> int:
        """Return the number of bytes of a segment that were sent."""
        inode, changed, offset = self._sent.get(path.name, (0, 0, 0))
        return offset if (inode, changed) == (found.st_ino, found.st_mtime_ns) else 0

    def put(self, path: Path, found: os.stat_result, offset: int) -> None:
        """Record that the first bytes of a segment were sent; `save` writes it to disk."""
        self._sent[path.name] = found.st_ino, found.st_mtime_ns, offset

    def save(self) -> None:
        """Write the state of the segments that exist, if it has changed."""
        self._sent = {
            name: state for name, state in self._sent.items() if (self._directory / name).exists()
        }
        text = json.dumps({"format": 1, "segments": self._sent}).encode()
        if text != self._saved:
            write_whole(self._path, text)
            self._saved = text


def unsent(directory: Path, now: datetime, hold: timedelta = HOLD) -> set[Path]:
    """Return the complete segments that `ship` has not sent; none if nothing is shipped.

    Args:
        directory: the directory of the log.
        now: the current time.
        hold: segments that were completed longer ago do not count.

    Raises:
        MonitoringError: the state cannot be read.
    """
    if not (directory / STATE).exists():
        return set()
    state, found = Shipped(directory), set()
    for path in segments.sealed(directory):
        stat = path.stat()
        completed = datetime.fromtimestamp(stat.st_mtime, timezone.utc)
        if state.offset(path, stat) < stat.st_size and now - completed < hold:
            found.add(path)
    return found
