"""An environment for each peer, made with uv from pinned versions, and kept for the next run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class InstallError(Exception):
    """The packages cannot be installed here."""


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the directory of an environment's programs, having made it if it is not there.

    Args:
        folder: where it is, or is to be.
        packages: what is in it, each with its version.

    Raises:
        InstallError: it says why.
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
    # Beside the interpreter where `make` has put it, else the system's.
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    command = [uv, *arguments, "--quiet"]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError as error:
        raise InstallError("uv is not installed, and makes the environment") from error
    if done.returncode:
        raise InstallError(
            f"does not install on Python {sys.version.split()[0]}: "
            + " ".join(done.stderr.split())[:300]
        )
