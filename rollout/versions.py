"""Version directories of a model: children of its directory whose names are numbers."""

from __future__ import annotations

from pathlib import Path

from rollout.errors import RolloutError


def versions(directory: Path) -> list[int]:
    """Return the published versions, ascending; a directory that cannot be listed has none."""
    try:
        return sorted(int(child.name) for child in directory.iterdir() if _is_version(child))
    except OSError:
        return []


def newest(directory: Path) -> int:
    """Return the newest published version.

    Raises:
        RolloutError: there is none.
    """
    if not (published := versions(directory)):
        raise RolloutError(f"{directory} has no version; expected a SavedModel at {directory}/1")
    return published[-1]


def _is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal() and path.is_dir()
