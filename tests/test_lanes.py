from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lanes import SLOW
from tests.support.processes import ROOT


@pytest.mark.parametrize("entry", SLOW)
def test_listed_slow_test_exists(entry: str) -> None:
    path, _, test = entry.partition("::")
    assert (ROOT / path).exists()
    assert not test or f"def {test}(" in Path(ROOT / path).read_text()
