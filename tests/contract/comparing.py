"""Compares values with recorded ones.

Floats are equal within a relative tolerance of 1e-5, and NaN equals NaN. Integers must be equal.
Booleans are not numbers. The order of keys is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

# For a logit of -20, the relative error of the probability is 20 times that of the logit.
TOLERANCE = 1e-5


def differences(
    expected: Any, actual: Any, ignored: Collection[str] = (), path: str = ""
) -> Iterator[str]:
    """Yield a message for each place where a value differs from the recorded one.

    Args:
        expected: the recorded value: dicts, lists and scalars.
        actual: the value to compare.
        ignored: keys whose values may differ.
        path: path of the two values within the outermost ones.
    """
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        for key in expected.keys() - set(ignored):
            yield from differences(expected[key], actual[key], ignored, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (theirs, ours) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(theirs, ours, ignored, f"{path}[{index}]")
    elif not are_equal(expected, actual):
        yield f"{path}: {actual!r:.300}, expected {expected!r:.300}"


def are_equal(expected: Any, actual: Any) -> bool:
    """Compare two scalars."""
    if isinstance(expected, complex) and isinstance(actual, complex):
        return are_equal(expected.real, actual.real) and are_equal(expected.imag, actual.imag)
    if isinstance(expected, float) or isinstance(actual, float):
        if not all(type(value) in (int, float) for value in (expected, actual)):
            return False
        both_nan = math.isnan(expected) and math.isnan(actual)
        return both_nan or math.isclose(expected, actual, rel_tol=TOLERANCE)
    return type(expected) is type(actual) and bool(expected == actual)
