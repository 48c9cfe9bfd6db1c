"""What is written down with each version: enough to check it, and to make it again.

`manifest.json` lies in the version directory, where TensorFlow Serving does not look at it. It
holds the SHA-256 of every other file, a fingerprint of the data, the settings, the versions of the
libraries, the metrics, and the gate's verdict.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
LIBRARIES = ("tensorflow", "numpy", "polars", "scikit-learn")


class VerifyError(ValueError):
    """A version is not what its manifest says; the message names the file."""


def write(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a directory that is complete but for it.

    Args:
        directory: the version, not yet published.
        facts: what to write down besides the files.
    """
    manifest = {**facts, "files": file_hashes(directory)}
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> dict[str, Any] | None:
    """Return a version's manifest; None if it has none that can be read."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def verify(directory: Path) -> int:
    """Compare a version with its manifest, and return how many files were compared.

    Raises:
        VerifyError: a file is missing, changed or not listed, or there is no manifest.
    """
    manifest = read(directory)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        raise VerifyError(f"{directory / MANIFEST}: no manifest that can be read")
    listed: dict[str, str] = manifest["files"]
    found = file_hashes(directory)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise VerifyError(f"{directory / name}: missing")
        if name not in listed:
            raise VerifyError(f"{directory / name}: not in the manifest")
        if found[name] != listed[name]:
            raise VerifyError(
                f"{directory / name}: SHA-256 is {found[name]}, expected {listed[name]}"
            )
    return len(found)


def file_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the manifest, by its path below the directory."""
    own = directory / MANIFEST
    files = (path for path in directory.rglob("*") if path.is_file() and path != own)
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def libraries() -> dict[str, str]:
    """Return the versions of what the result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
