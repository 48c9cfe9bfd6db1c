"""Writes a benchmark's table to a file, with what it was measured on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def write(
    name: str, about: str, header: Sequence[str], rows: Sequence[Sequence[str]], packages: list[str]
) -> None:
    """Print a table and keep it in `results/name.md`.

    Args:
        name: of the benchmark.
        about: what was measured, in a sentence or two.
        header: of the table.
        rows: of the table.
        packages: whose versions matter.
    """
    write_sections(name, about, [("", header, rows)], packages)


Section = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def write_sections(
    name: str,
    about: str,
    sections: Sequence[Section],
    packages: Sequence[str],
    folder: Path = RESULTS,
) -> None:
    """Print several tables and keep them in `name.md`.

    Args:
        name: of the benchmark.
        about: what was measured, in a sentence or two.
        sections: a text, a header and rows for each table.
        packages: whose versions matter.
        folder: where the file is kept.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = [
        f"# {name}",
        "",
        about,
        "",
        f"{date.today()}, {machine()}, Python {platform.python_version()}, {versions}.",
        f"Command: `python -m benchmarks.{name}`.",
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
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(lines))
    print("\n".join(lines))


def machine() -> str:
    """Say what is measured on."""
    models = re.findall(r"^model name\s*: (.+)", _cpu_info(), re.MULTILINE)
    return f"{os.cpu_count()} cores ({models[0] if models else platform.machine()})"


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
