"""The walk-through of docs/monitoring.md: its commands, and a shell to run them in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT


def code_blocks() -> list[str]:
    """Return the code blocks of the section."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    section = page.split("## A walk-through", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def run(commands: str, folder: Path, **environment: str) -> str:
    """Run commands in a folder as a reader of the page would, and return their output."""
    result = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
