"""Virtual environments of the peers, created with uv from pinned versions and kept between runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class InstallError(Exception):
    """The packages cannot be installed; the message gives the reason."""


def ensure_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Create an environment unless it exists, and return its `bin` directory.

    Args:
        folder: directory of the environment.
        packages: requirements with pinned versions.

    Raises:
        InstallError: uv is missing, or a package does not install.
    """
    programs, marker = folder / "bin", folder / "packages.txt"
    requirements = "\n".join(packages)
    if marker.exists() and marker.read_text() == requirements:
        return programs
    print(f"installing {', '.join(packages)}", file=sys.stderr)
    _uv("venv", "--clear", f"--python={sys.executable}", str(folder))
    _uv("pip", "install", f"--python={programs / 'python'}", "--compile-bytecode", *packages)
    marker.write_text(requirements)
    return programs


def _uv(*arguments: str) -> None:
    # `make install` puts uv beside the interpreter; otherwise use the system's.
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    # The settings in pyproject.toml are for the environment of the project.
    command = [uv, "--no-config", *arguments, "--quiet"]
    try:
        process = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError as error:
        raise InstallError("uv is not installed; `make install` installs it") from error
    if process.returncode:
        raise InstallError(
            f"does not install on Python {sys.version.split()[0]}: "
            + " ".join(process.stderr.split())[:300]
        )
