"""The size of the environment that `make run` installs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import missing
from tests.support.processes import ROOT

LIMIT = 1_800_000_000  # docs/scale.md
BLOCK = 4096  # files and directories take whole blocks, as `du` counts


def packages() -> Iterator[str]:
    """Yield the packages that `make run` installs on this machine."""
    yield from ("pip", "uv")
    for line in (ROOT / "requirements" / "run.txt").read_text().splitlines():
        if line and line[0].isalnum():
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name


def files(package: str) -> Iterator[Path]:
    """Yield the files of a package, with their bytecode and without those that `make` removes."""
    for file in metadata.files(package) or ():
        removed = "tests" in file.parts[:-1] or file.parts[:2] == ("tensorflow", "include")
        if removed or file.suffix == ".pyc":
            continue
        path = Path(os.path.normpath(file.locate()))
        yield path
        if path.suffix == ".py":
            yield Path(importlib.util.cache_from_source(str(path)))


def test_the_environment_of_make_run_is_small() -> None:
    found: set[Path] = set()
    for package in packages():
        try:
            found.update(files(package))
        except metadata.PackageNotFoundError:
            missing(f"{package} is not installed; `make install` installs it")
    directories = {path.parent for path in found}
    blocks = len(directories) + sum(-(-path.stat().st_size // BLOCK) for path in found)
    assert blocks * BLOCK <= LIMIT
