"""Progress of `ship` per segment, in `DIRECTORY/shipping.json`.

While the file exists, `compact` keeps unsent segments for up to `HOLD`.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from monitoring import segments
from monitoring.errors import MonitoringError
from monitoring.store import write_atomically

STATE = "shipping.json"
HOLD = timedelta(days=7)


class ShippingState:
    """How many bytes of each segment have been sent.

    Segments are identified by name, inode and modification time: a gateway in a new container may
    have the process id of an earlier one and reuse its segment names, and `forget` replaces files.
    """

    def __init__(self, directory: Path) -> None:
        """Read the state.

        Raises:
            MonitoringError: the state cannot be read.
        """
        self._directory = directory
        self._path = directory / STATE
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._saved = b""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            for name, (inode, mtime, offset) in stored["segments"].items():
                self._sent[name] = int(inode), int(mtime), int(offset)
        except FileNotFoundError:
            pass
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MonitoringError(
                f"{self._path}: not the state of `ship`: {error}; remove it to send all segments "
                "again"
            ) from error

    def offset(self, path: Path, stat: os.stat_result) -> int:
        """Return how many bytes of a segment have been sent."""
        inode, mtime, offset = self._sent.get(path.name, (0, 0, 0))
        return offset if (inode, mtime) == (stat.st_ino, stat.st_mtime_ns) else 0

    def record(self, path: Path, stat: os.stat_result, offset: int) -> None:
        """Record how many bytes of a segment have been sent; `save` writes this to disk."""
        self._sent[path.name] = stat.st_ino, stat.st_mtime_ns, offset

    def save(self) -> None:
        """Write the state of existing segments if it has changed."""
        self._sent = {
            name: state for name, state in self._sent.items() if (self._directory / name).exists()
        }
        text = json.dumps({"format": 1, "segments": self._sent}).encode()
        if text != self._saved:
            write_atomically(self._path, text)
            self._saved = text


def unsent_segments(directory: Path, now: datetime, hold: timedelta = HOLD) -> set[Path]:
    """Return the complete segments that `ship` has not sent; empty if the log is not shipped.

    Args:
        directory: the directory of the log.
        now: the current time.
        hold: skip segments that were completed longer ago.

    Raises:
        MonitoringError: the state cannot be read.
    """
    if not (directory / STATE).exists():
        return set()
    state, unsent = ShippingState(directory), set()
    for path in segments.sealed_segments(directory):
        stat = path.stat()
        completed = datetime.fromtimestamp(stat.st_mtime, timezone.utc)
        if state.offset(path, stat) < stat.st_size and now - completed < hold:
            unsent.add(path)
    return unsent
