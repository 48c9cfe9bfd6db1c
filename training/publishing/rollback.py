"""Rollback to an older version: a copy of it is published as the newest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import RollbackError
from training.publishing import manifest
from training.publishing.file_hashes import ManifestError, verify
from training.publishing.versions import republish, versions


@dataclass(frozen=True)
class Rollback:
    """A rollback that was published.

    Attributes:
        path: directory of the new version.
        message: what was done, for the user.
    """

    path: Path
    message: str


def roll_back(models: Path, name: str, number: int | None = None) -> Rollback:
    """Publish a copy of an older version as the newest; by default, the one before the newest.

    A copy counts as its original, so repeated rollbacks go further back.

    Raises:
        RollbackError: there is no such version, its files differ from its manifest, or the copy
            cannot be written.
    """
    base_path = models / name
    published = versions(base_path)
    if not published:
        raise RollbackError(f"{base_path} has no version")
    newest, origin = published[-1], _origin(base_path, published[-1])
    if number is None:
        older = [n for n in published if n < origin]
        if not older:
            copy_text = f" (version {newest} is a copy of it)" if origin != newest else ""
            raise RollbackError(
                f"{base_path} has no version before {origin}{copy_text}; --to takes any of "
                f"{', '.join(map(str, published))}"
            )
        number = older[-1]
    elif number not in published:
        listing = ", ".join(map(str, published))
        raise RollbackError(f"{base_path} has no version {number}; it has {listing}")
    target = _origin(base_path, number)

    def amend(copy: Path) -> None:
        manifest.write(copy, replace(manifest.read(copy), rollback_to=target))

    try:
        verify(base_path / str(number))
        record = manifest.read(base_path / str(number))
        path = republish(models, name, number, amend)
    except (ManifestError, OSError) as error:
        raise RollbackError(f"cannot roll back to version {number}: {error}") from error
    source = f"version {newest}" + (f" (a copy of {origin})" if origin != newest else "")
    return Rollback(
        path,
        f"Rolled back from {source} to version {target}, trained {record.trained_at}: published as "
        f"version {path.name}. To undo: rollback --to {newest}",
    )


def _origin(base_path: Path, number: int) -> int:
    """Return the original of a version: the one it is a copy of, or the version itself."""
    seen = {number}
    while True:
        try:
            original = manifest.read(base_path / str(number)).rollback_to
        except ManifestError:
            return number
        if original is None or original in seen:
            return number
        seen.add(original)
        number = original
