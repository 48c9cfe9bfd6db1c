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
    """Return the number of cells in each row of each table."""
    counts: list[list[int]] = []
    previous = ""
    for line in CODE.sub("", text).splitlines():
        if line.lstrip().startswith("|"):
            if not previous.lstrip().startswith("|"):
                counts.append([])
            counts[-1].append(len(re.split(r"(?<!\\)\|", line.strip())) - 2)
        previous = line
    return counts


def links(text: str) -> list[str]:
    """Return the targets of the links, ignoring whether they are translated."""
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
        targets = [link.partition("#")[0] for link in LINK.findall(read(path))]
        local = [target for target in targets if target and not target.startswith("http")]
        assert [target for target in local if not (path.parent / target).exists()] == []
