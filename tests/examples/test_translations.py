"""A page and its Chinese translation have the same headings, code, tables and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.processes import ROOT

TRANSLATIONS = sorted([*ROOT.glob("*.zh.md"), *(ROOT / "docs").glob("*.zh.md")])
CODE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def original_of(translation: Path) -> Path:
    return translation.with_name(translation.name.replace(".zh.md", ".md"))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def headings(text: str) -> list[int]:
    """Return the level of each heading."""
    return [len(marks) for marks in re.findall(r"^(#+) ", CODE.sub("", text), re.M)]


def tables(text: str) -> list[list[int]]:
    """Return how many cells each row of each table has."""
    found: list[list[int]] = []
    before = ""
    for line in CODE.sub("", text).splitlines():
        if line.lstrip().startswith("|"):
            if not before.lstrip().startswith("|"):
                found.append([])
            found[-1].append(len(re.split(r"(?<!\\)\|", line.strip())) - 2)
        before = line
    return found


def links(text: str) -> list[str]:
    """Return where the links lead, but for the translation that a page may lead to."""
    targets = (link.partition("#")[0].replace(".zh.", ".") for link in LINK.findall(text))
    return sorted(target for target in targets if target)


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda path: path.name)
def test_translation_matches_its_page(translation: Path) -> None:
    english, chinese = read(original_of(translation)), read(translation)
    assert headings(chinese) == headings(english)
    assert CODE.findall(chinese) == CODE.findall(english)
    assert tables(chinese) == tables(english)
    assert links(chinese) == links(english)


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda path: path.name)
def test_page_and_translation_link_to_each_other(translation: Path) -> None:
    original = original_of(translation)
    assert f"[中文]({translation.name})" in read(original)
    assert f"[English]({original.name})" in read(translation)


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda path: path.name)
def test_links_point_to_existing_files(translation: Path) -> None:
    for path in (translation, original_of(translation)):
        local = [link.partition("#")[0] for link in LINK.findall(read(path))]
        local = [link for link in local if link and not link.startswith("http")]
        assert [link for link in local if not (path.parent / link).exists()] == []
