"""Print a benchmark's tables and the machine they were measured on; `--write` saves them."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

RESULTS = Path(__file__).parent / "results"
Section = tuple[str, Sequence[str], Sequence[Sequence[str]]]

# An option of every benchmark; without it, a run leaves the checkout unchanged.
write_option = click.option(
    "--write",
    "folder",
    flag_value=str(RESULTS),
    type=click.Path(path_type=Path),
    help="Write the results to benchmarks/results.",
)


def write(
    name: str,
    about: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    packages: list[str],
    folder: Path | None,
) -> None:
    """Print one table; see `write_sections`."""
    write_sections(name, about, [("", header, rows)], packages, folder)


def write_sections(
    name: str,
    about: str,
    sections: Sequence[Section],
    packages: Sequence[str],
    folder: Path | None,
) -> None:
    """Print several tables, and write them to `name.md` in a folder if there is one.

    Args:
        name: the benchmark's module in `benchmarks`.
        about: description of the measurement in one or two sentences.
        sections: text above the table (may be empty), header and rows of each table.
        packages: installed packages to list with their versions.
        folder: directory of the file; None only prints.
    """
    versions = ", ".join(f"{package} {_version(package)}" for package in packages)
    command = shlex.join([".venv/bin/python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    lines = [
        f"# {name}",
        "",
        about,
        "",
        f"{date.today()}, {machine()}, Python {platform.python_version()}, {versions}.",
        f"Command: `{command}`.",
        "",
    ]
    for text, header, rows in sections:
        lines += [text, ""] if text else []
        lines += [
            "| " + " | ".join(header) + " |",
            "|---" * len(header) + "|",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    print("\n".join(lines))
    if folder is not None:
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.md").write_text("\n".join(lines))


def machine() -> str:
    """Return the number of cores and the processor's name."""
    models = re.findall(r"^model name\s*: (.+)", _cpu_info(), re.MULTILINE)
    return f"{os.cpu_count()} cores ({models[0] if models else platform.machine()})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return version(f"{package}-cpu")  # tensorflow, on Linux with x86-64


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
