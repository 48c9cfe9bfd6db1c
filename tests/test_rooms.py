"""Rooms share public formats, not code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

ROOMS = ("client", "launcher", "monitoring", "rollout", "serving", "training")


def imported_packages(source: Path) -> Iterator[str]:
    """Yield the top-level packages that a module imports."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_no_other_room(room: str) -> None:
    sources = list((ROOT / room).rglob("*.py"))
    assert sources
    for source in sources:
        assert not {*ROOMS, "tests", "benchmarks"} - {room} & set(imported_packages(source)), source
