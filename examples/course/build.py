"""Write the course's notebooks in both languages: `python -m examples.course.build`.

A source in `source/` has the code cells once and each text cell in English and in Chinese, in
Jupytext's percent format. The code is run once, and both notebooks get its outputs. The outputs of
cells with the tag `varies` differ between runs and machines and are not kept.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
SOURCES = tuple(sorted((FOLDER / "source").glob("*.py")))
SUFFIXES = {"en": ".ipynb", "zh": ".zh.ipynb"}
CELL = re.compile(r'^# %%(?P<markdown> \[markdown\] lang="(?P<language>en|zh)")?(?P<varies>.*)$')
VARIES = ' tags=["varies"]'
TIMEOUT_SECONDS = 600


def path_of(source: Path, language: str) -> Path:
    """Return the path of a source's notebook in a language."""
    return FOLDER / f"{source.stem}{SUFFIXES[language]}"


def notebook(source: Path, language: str) -> NotebookNode:
    """Return a source as a notebook without outputs.

    Raises:
        ValueError: a line begins like a cell but is not a valid one.
    """
    cells: list[NotebookNode] = []
    lines: list[str] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# %%"):
            lines.append(line)
            continue
        _finish(cells, lines)
        match = CELL.match(line)
        if match is None or match["varies"] not in ("", VARIES):
            raise ValueError(f"{source.name}: not a cell: {line}")
        lines = []
        if match["markdown"]:
            cells.append(nbformat.v4.new_markdown_cell(metadata={"language": match["language"]}))
        else:
            tags = {"tags": ["varies"]} if match["varies"] else {}
            cells.append(nbformat.v4.new_code_cell(metadata=tags))
    _finish(cells, lines)
    selected = [cell for cell in cells if cell.metadata.pop("language", language) == language]
    for number, cell in enumerate(selected, 1):
        cell.id = f"cell-{number}"
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    result: NotebookNode = nbformat.v4.new_notebook(cells=selected, metadata=metadata)
    return result


def execute(unexecuted: NotebookNode) -> NotebookNode:
    """Run a notebook from top to bottom, and keep only outputs that are the same everywhere.

    Raises:
        CellExecutionError: a cell failed.
    """
    client = NotebookClient(
        unexecuted,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        startup_timeout=TIMEOUT_SECONDS,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    with tempfile.TemporaryDirectory(prefix="ipython-") as profile:
        # Do not use the user's own start-up files and history.
        executed = client.execute(env={**os.environ, "IPYTHONDIR": profile})
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs = (
                [] if _varies(cell) else [o for o in map(_clean_output, cell.outputs) if o]
            )
    executed.metadata.language_info = {"name": "python"}
    return executed


def write(source: Path) -> None:
    """Run a source and write its notebooks."""
    outputs = [cell for cell in execute(notebook(source, "en")).cells if cell.cell_type == "code"]
    for language in SUFFIXES:
        result = notebook(source, language)
        codes = (cell for cell in result.cells if cell.cell_type == "code")
        for cell, executed in zip(codes, outputs, strict=True):
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
        nbformat.validate(result)
        nbformat.write(result, path_of(source, language))


def _finish(cells: list[NotebookNode], lines: list[str]) -> None:
    if not cells:
        return  # lines before the first cell are for readers of the source
    if cells[-1].cell_type == "markdown":
        lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
    cells[-1].source = "\n".join(lines).strip("\n")


def _varies(cell: NotebookNode) -> bool:
    return "varies" in cell.metadata.get("tags", [])


def _clean_output(output: Any) -> Any:
    """Return an output without details that vary; None for standard error."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if "image/png" in output.get("data", {}):
        output.data.pop("text/plain", None)  # the figure's size in pixels
        output.metadata = {}
    return output


if __name__ == "__main__":
    for source in SOURCES:
        write(source)
