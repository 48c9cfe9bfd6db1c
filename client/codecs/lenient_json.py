"""Lenient JSON, as clients of other servers write it: NaN and infinities are allowed.

orjson rejects NaN and infinities, so bodies that hold them are read by the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

# `Inf` outside strings; TensorFlow Serving reads it as Infinity. Matching strings to their end, or
# to the end of the text, takes linear time.
_INF = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*"?)|\bInf\b', re.DOTALL)
# An escape. The group `lone` matches a lone surrogate: Python accepts it, but it is no character.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<lone>u[dD][89a-fA-F])|.)", re.DOTALL
)
_INTEGER_DIGITS = 20
_MIN_INT64, _MAX_UINT64 = -(2**63), 2**64 - 1

PairsHook = Callable[[list[tuple[str, Any]]], Any]


class JsonError(ValueError):
    """The text is not JSON; the message says why."""


def loads(text: str, pairs_hook: PairsHook | None = None, *, ignore_trailing: bool = False) -> Any:
    """Parse JSON.

    Args:
        text: JSON that may hold NaN, Infinity, Inf and -Infinity.
        pairs_hook: builds an object from its members; a dict by default.
        ignore_trailing: whether to ignore text after the document.

    Raises:
        JsonError: the text is not JSON, is nested too deeply, or holds a lone surrogate or a number
            out of range.
    """
    decoder = json.JSONDecoder(
        object_pairs_hook=pairs_hook, parse_int=_parse_integer, parse_float=_parse_float
    )
    if "\\u" in text and any(match["lone"] for match in _ESCAPE.finditer(text)):
        raise JsonError("lone surrogate in a string")
    has_inf = "Inf" in text
    if has_inf:
        text = _INF.sub(lambda match: match[1] or "Infinity", text)
    try:
        start = len(text) - len(text.lstrip(" \t\r\n"))
        document, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        # Replacing Inf has moved the positions.
        raise JsonError(error.msg if has_inf else str(error)) from None
    except RecursionError:
        raise JsonError("lists or objects nested too deeply") from None
    if not ignore_trailing and text[end:].strip(" \t\r\n"):
        position = "" if has_inf else f": char {end}"
        raise JsonError(f"unexpected text after the document{position}")
    return document


def _parse_integer(digits: str) -> int | float:
    """Parse a 64-bit integer exactly, and a larger one as a float, as orjson does."""
    if len(digits) <= _INTEGER_DIGITS:
        value = int(digits)
        if _MIN_INT64 <= value <= _MAX_UINT64:
            return value
    return _parse_float(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"number out of range: {digits[:40]}")
    return value
