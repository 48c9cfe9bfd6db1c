"""The lists of differences are short, and the docs show them."""

from __future__ import annotations

from tests.contract import recordings, rest_recordings
from tests.support.processes import ROOT

MAX_DIFFERENCES = 14
SHOWN = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_docs_list_each_difference_and_its_reason() -> None:
    ours = {name: case["reason"] for name, case in recordings.differences().items()}
    rest = {name: case.reason for name, case in rest_recordings.differences().items()}
    for name, reason in {**ours, **rest}.items():
        assert f"| `{name}` | {reason} |" in SHOWN
    assert SHOWN.count("| `") == len(ours) + len(rest)


def test_differences_are_few_and_refer_to_recorded_cases() -> None:
    differing = recordings.differences()
    assert len(differing) <= MAX_DIFFERENCES
    recorded = {case["id"] for kind in ("grpc", "lifecycle") for case in recordings.read(kind)}
    assert differing.keys() <= recorded
