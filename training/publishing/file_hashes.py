"""SHA-256 hashes of a version's files, checked against its manifest."""

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
    expected = read_json(directory).get("files")
    if not isinstance(expected, dict):
        raise ManifestError(
            f"{directory / MANIFEST}: expected an object 'files' with the hash of each file, "
            f"got {'nothing' if expected is None else type(expected).__name__}"
        )
    actual = file_hashes(directory)
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            raise ManifestError(f"{directory / name}: missing")
        if name not in expected:
            raise ManifestError(f"{directory / name}: not in the manifest")
        if actual[name] != expected[name]:
            raise ManifestError(
                f"{directory / name}: SHA-256 is {actual[name]}, expected {expected[name]}"
            )
    return len(actual)


def file_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file except the manifest, by relative path."""
    manifest = directory / MANIFEST
    files = (path for path in directory.rglob("*") if path.is_file() and path != manifest)
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }
