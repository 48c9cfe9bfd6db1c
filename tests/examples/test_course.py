"""The course's notebooks run, agree in both languages, and have clean outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from sklearn.datasets import make_classification

from examples.course import build
from tests.support.processes import ROOT

NOTEBOOKS = [
    build.path_of(source, language) for source in build.SOURCES for language in build.SUFFIXES
]
MAX_BYTES = 2_000_000
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
QUOTED = re.compile(r"`([^`]+)`")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def read(path: Path) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_outputs(notebook: NotebookNode) -> list[str]:
    """Return the text that each cell prints, with the number of pictures it draws."""
    texts = []
    for cell in code_cells(notebook):
        text = "".join(output.get("text", "") for output in cell.outputs)
        pictures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        texts.append(f"{text}{pictures} pictures")
    return texts


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", build.SOURCES, ids=lambda source: source.stem)
def test_notebook_reproduces_its_stored_output(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIENT_TIMEOUT", "60")  # for a busy machine
    executed = build.execute(read(build.path_of(source, "en")))
    assert cell_outputs(executed) == cell_outputs(read(build.path_of(source, "en")))


@pytest.mark.parametrize("source", build.SOURCES, ids=lambda source: source.stem)
@pytest.mark.parametrize("language", build.SUFFIXES)
def test_notebook_matches_its_source(source: Path, language: str) -> None:
    committed = read(build.path_of(source, language))
    for cell in code_cells(committed):
        cell.outputs, cell.execution_count = [], None
    hint = "run `python -m examples.course.build` after changing a source"
    assert committed == build.notebook(source, language), hint


@pytest.mark.parametrize("source", build.SOURCES, ids=lambda source: source.stem)
def test_both_languages_have_the_same_code_outputs_and_headings(source: Path) -> None:
    english, chinese = (read(build.path_of(source, language)) for language in build.SUFFIXES)
    assert code_cells(english) == code_cells(chinese)
    assert [cell.cell_type for cell in english.cells] == [cell.cell_type for cell in chinese.cells]
    for english_cell, chinese_cell in zip(english.cells, chinese.cells, strict=True):
        if english_cell.cell_type == "markdown":
            assert re.findall("^#+", english_cell.source, re.M) == re.findall(
                "^#+", chinese_cell.source, re.M
            )
            assert english_cell.source.count("$") == chinese_cell.source.count("$")
            assert not CHINESE.search(english_cell.source.replace("[中文]", ""))
            assert CHINESE.search(chinese_cell.source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_contain_no_warnings_or_local_paths(path: Path) -> None:
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for number, cell in enumerate(code_cells(notebook), 1):
        assert cell.execution_count == number
        assert set(cell.metadata) <= {"tags"}
        assert not cell.metadata.get("tags") or cell.outputs == []
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data")
            assert output.get("name", "stdout") == "stdout"
            assert not re.search(
                r"Warning|Traceback|/tmp|/home|/work|/root", output.get("text", "")
            )


def test_notebooks_are_small() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MAX_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_point_to_existing_files(path: Path) -> None:
    text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    links = [link for link in LINK.findall(text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_neuron_table_is_generated_with_the_first_seed_of_the_exercise() -> None:
    table = np.loadtxt(build.FOLDER / "neuron.csv", delimiter=",", skiprows=1)
    features, labels = make_classification(n_samples=500, n_features=5, n_classes=2, random_state=0)
    np.testing.assert_allclose(table, np.column_stack([features, labels]), atol=5.1e-5)


@pytest.mark.parametrize("name", ["course.md", "course.zh.md"])
def test_each_correction_quotes_a_line_of_a_notebook(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    code = "\n".join(
        cell.source for source in build.SOURCES for cell in code_cells(build.notebook(source, "en"))
    )
    rows = re.findall(r"^\| \d+ \|.*\|$", text, re.M)
    assert len(rows) == 7
    for row in rows:
        quotes = QUOTED.findall(row.rsplit("|", 2)[1])
        assert quotes, row
        assert [quote for quote in quotes if quote not in code] == [], row


def test_notebooks_are_valid_nbformat_4() -> None:
    for path in NOTEBOOKS:
        assert json.loads(path.read_text(encoding="utf-8"))["nbformat"] == 4
        nbformat.validate(read(path))
