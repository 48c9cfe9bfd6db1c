"""The size of the environment that `make run` installs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import skip_or_fail
from tests.support.processes import ROOT

MAX_BYTES = 1_800_000_000  # docs/scale.md
BLOCK_BYTES = 4096  # files and directories take whole blocks, as in `du`


def packages() -> Iterator[str]:
    """Yield the packages that `make run` installs on this machine."""
    yield from ("pip", "uv")
    for line in (ROOT / "requirements" / "run.txt").read_text().splitlines():
        if line and line[0].isalnum():
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name


def files(package: str) -> Iterator[Path]:
    """Yield a package's files and their bytecode, except files that `make` removes."""
    for file in metadata.files(package) or ():
        is_removed = "tests" in file.parts[:-1] or file.parts[:2] == ("tensorflow", "include")
        if is_removed or file.suffix == ".pyc":
            continue
        path = Path(os.path.normpath(file.locate()))
        yield path
        if path.suffix == ".py":
            yield Path(importlib.util.cache_from_source(str(path)))


def test_environment_of_make_run_is_within_its_size_limit() -> None:
    paths: set[Path] = set()
    for package in packages():
        try:
            paths.update(files(package))
        except metadata.PackageNotFoundError:
            skip_or_fail(f"{package} is not installed; `make install` installs it")
    directories = {path.parent for path in paths}
    blocks = len(directories) + sum(-(-path.stat().st_size // BLOCK_BYTES) for path in paths)
    assert blocks * BLOCK_BYTES <= MAX_BYTES
