"""SHA-256 sums of a version's files, checked against its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class ManifestError(ValueError):
    """A manifest cannot be read, or does not match the version; the message names the file."""


def read_json(directory: Path) -> dict[str, Any]:
    """Return a version's manifest as stored.

    Raises:
        ManifestError: it is missing or not a JSON object.
    """
    path = directory / MANIFEST
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    if not isinstance(stored, dict):
        raise ManifestError(f"{path}: expected a JSON object, got {type(stored).__name__}")
    return stored


def verify(directory: Path) -> int:
    """Compare a version with its manifest and return the number of files compared.

    Raises:
        ManifestError: a file is missing, changed or not listed, or there is no manifest.
    """
    listed = read_json(directory).get("files")
    if not isinstance(listed, dict):
        raise ManifestError(
            f"{directory / MANIFEST}: expected an object 'files' with the hash of each file, "
            f"got {'nothing' if listed is None else type(listed).__name__}"
        )
    found = file_hashes(directory)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise ManifestError(f"{directory / name}: missing")
        if name not in listed:
            raise ManifestError(f"{directory / name}: not in the manifest")
        if found[name] != listed[name]:
            raise ManifestError(
                f"{directory / name}: SHA-256 is {found[name]}, expected {listed[name]}"
            )
    return len(found)


def file_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the manifest, by its path in the directory."""
    own = directory / MANIFEST
    files = (path for path in directory.rglob("*") if path.is_file() and path != own)
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }
