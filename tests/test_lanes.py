from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lanes import SLOW
from tests.support.processes import ROOT


@pytest.mark.parametrize("slow", SLOW)
def test_each_slow_test_is_still_there(slow: str) -> None:
    path, _, test = slow.partition("::")
    assert (ROOT / path).exists()
    assert not test or f"def {test}(" in Path(ROOT / path).read_text()
