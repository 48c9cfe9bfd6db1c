"""The lists of differences are short, and the docs contain them."""

from __future__ import annotations

from tests.contract import recordings, rest_recordings
from tests.support.processes import ROOT

MAX_DIFFERENCES = 14
PAGE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_docs_list_each_difference_and_its_reason() -> None:
    grpc = {name: case["reason"] for name, case in recordings.differences().items()}
    rest = {name: case.reason for name, case in rest_recordings.differences().items()}
    for name, reason in {**grpc, **rest}.items():
        assert f"| `{name}` | {reason} |" in PAGE
    assert PAGE.count("| `") == len(grpc) + len(rest)


def test_differences_are_few_and_refer_to_recorded_cases() -> None:
    differences = recordings.differences()
    assert len(differences) <= MAX_DIFFERENCES
    recorded = {case["id"] for kind in ("grpc", "lifecycle") for case in recordings.read(kind)}
    assert differences.keys() <= recorded
