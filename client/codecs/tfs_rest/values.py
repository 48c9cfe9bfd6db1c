"""JSON values as TensorFlow Serving sees them, and as it quotes them in its errors."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any

import numpy as np

from client.errors import ClientError

_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
_UNPRINTABLE = re.compile('["\\\\\x00-\x1f]')


class Members(tuple[tuple[str, Any], ...]):
    """A JSON object: its keys and values in the order sent, twice if they were sent twice."""

    __slots__ = ()

    def first(self, key: str, default: Any = None) -> Any:
        """Return the value of a key where it first is."""
        return next((value for name, value in self if name == key), default)


ABSENT = object()


def refusal(message: str, status: int = 400) -> ClientError:
    """Return an error whose text may quote what the caller sent."""
    return ClientError(to_bytes(message).decode(errors="replace"), status)


def to_bytes(text: str) -> bytes:
    """Return the bytes that were sent for a string."""
    return text.encode("utf-8", "surrogateescape")


def kind_of(value: Any) -> str:
    """Return RapidJSON's name for a value's type."""
    if isinstance(value, Members):
        return "Object"
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", list: "Array", str: "String", int: "Number", float: "Number"}
    return names[type(value)]


def quoted(value: Any) -> str:
    """Return a value as TensorFlow Serving quotes it in an error."""
    if isinstance(value, float):
        return decimal(value)
    pieces: list[str] = []
    # RapidJSON's writer stops at a number that is no JSON, and what is there is taken for all.
    with suppress(_NotFiniteError):
        _print(value, "\n", pieces)
    return "".join(pieces)


def decimal(value: float) -> str:
    """Return a number that was written with a point or an exponent as TensorFlow Serving writes it.

    Six digits if they are enough; if not, 9 if it fits into a float32, else 17.
    """
    if not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    narrow = abs(value) <= 3.4028234e38
    value = float(np.float32(value)) if narrow else value
    text = f"{value:g}"
    same = np.float32(text) == np.float32(value) if narrow else float(text) == value
    if not same:
        text = f"{value:.{9 if narrow else 17}g}"
    return text if "." in text or "e" in text else text + ".0"


class _NotFiniteError(Exception):
    pass


def _print(value: Any, line: str, pieces: list[str]) -> None:
    """Print a value over several lines, four spaces deeper for each list and object."""
    if isinstance(value, Members | list):
        keyed = isinstance(value, Members)
        inner = line + "    "
        pieces.append("{" if keyed else "[")
        for index, member in enumerate(value):
            pieces.append(("," if index else "") + inner)
            if keyed:
                name, member = member
                pieces.append(_string(name) + ": ")
            _print(member, inner, pieces)
        pieces.append((line if value else "") + ("}" if keyed else "]"))
    elif isinstance(value, str):
        pieces.append(_string(value))
    elif isinstance(value, float):
        pieces.append(_shortest(value))
    else:
        pieces.append(json.dumps(value))


def _string(text: str) -> str:
    return '"' + _UNPRINTABLE.sub(_escaped, text) + '"'


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04X}"


def _shortest(value: float) -> str:
    """Return a number as RapidJSON's writer does: the fewest digits, plain up to 21 of them."""
    if not math.isfinite(value):
        raise _NotFiniteError
    sign, digits, exponent = _decomposed(value)
    point = len(digits) + exponent
    if exponent >= 0 and point <= 21:
        return f"{sign}{digits}{'0' * exponent}.0"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1}"


def _decomposed(value: float) -> tuple[str, str, int]:
    """Return a number's sign, its digits, and the power of ten they are to be multiplied by."""
    mantissa, _, power = repr(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    shorter = digits.rstrip("0")
    exponent = int(power or 0) - len(fraction) + len(digits) - len(shorter)
    return (sign, shorter, exponent) if shorter else (sign, "0", 0)
