"""A virtual environment for each peer: made with uv from pinned versions, kept between runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class InstallError(Exception):
    """The packages cannot be installed; the message has the reason."""


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return an environment's `bin` directory; the environment is made on the first call.

    Args:
        folder: directory of the environment.
        packages: requirements with pinned versions.

    Raises:
        InstallError: uv is missing, or a package does not install.
    """
    programs, done = folder / "bin", folder / "packages.txt"
    wanted = "\n".join(packages)
    if done.exists() and done.read_text() == wanted:
        return programs
    print(f"installing {', '.join(packages)}", file=sys.stderr)
    _uv("venv", "--clear", f"--python={sys.executable}", str(folder))
    _uv("pip", "install", f"--python={programs / 'python'}", "--compile-bytecode", *packages)
    done.write_text(wanted)
    return programs


def _uv(*arguments: str) -> None:
    # `make install` puts uv beside the interpreter; otherwise use the system's.
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    # The settings in pyproject.toml are for the environment of the project.
    command = [uv, "--no-config", *arguments, "--quiet"]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError as error:
        raise InstallError("uv is not installed; `make install` installs it") from error
    if done.returncode:
        raise InstallError(
            f"does not install on Python {sys.version.split()[0]}: "
            + " ".join(done.stderr.split())[:300]
        )
