"""Comparing values with recorded ones.

Numbers are equal within 1e-5 of the larger one, NaN equals NaN, integers equal exactly, and a
boolean is no number. The order of keys does not count.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

# A float32 logit of 20 is known to 1e-6, and its probability to 20 times that.
TOLERANCE = 1e-5


def faults(want: Any, got: Any, skipped: Collection[str] = (), place: str = "") -> Iterator[str]:
    """Yield the places where a value differs from the recorded one.

    Args:
        want: the recorded value: dicts, lists and scalars.
        got: the value to compare.
        skipped: keys whose values may differ.
        place: the path of both values in the whole.
    """
    if isinstance(want, dict) and isinstance(got, dict) and want.keys() == got.keys():
        for key in want.keys() - set(skipped):
            yield from faults(want[key], got[key], skipped, f"{place}.{key}")
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for index, (theirs, ours) in enumerate(zip(want, got, strict=True)):
            yield from faults(theirs, ours, skipped, f"{place}[{index}]")
    elif not same(want, got):
        yield f"{place}: {got!r:.300}, expected {want!r:.300}"


def same(want: Any, got: Any) -> bool:
    """Compare two scalars."""
    if isinstance(want, complex) and isinstance(got, complex):
        return same(want.real, got.real) and same(want.imag, got.imag)
    if isinstance(want, float) or isinstance(got, float):
        if not all(type(value) in (int, float) for value in (want, got)):
            return False
        both_nan = math.isnan(want) and math.isnan(got)
        return both_nan or math.isclose(want, got, rel_tol=TOLERANCE)
    return type(want) is type(got) and bool(want == got)
