"""Writes a benchmark's table to a file, with what it was measured on."""

from __future__ import annotations

import os
import platform
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
    name: str, about: str, sections: Sequence[Section], packages: Sequence[str]
) -> None:
    """Print several tables and keep them in `results/name.md`.

    Args:
        name: of the benchmark.
        about: what was measured, in a sentence or two.
        sections: a text, a header and rows for each table.
        packages: whose versions matter.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = [
        f"# {name}",
        "",
        about,
        "",
        f"{date.today()}, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
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
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines))
    print("\n".join(lines))
