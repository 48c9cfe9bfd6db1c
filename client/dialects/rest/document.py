"""JSON as TensorFlow Serving reads it, and as it quotes it in its errors.

Its parser is RapidJSON, and so is the one here: where a body is no JSON it says so in the same
words and counts the same offset. It reads NaN, Infinity, Inf and the same with a minus, stops at a
zero byte, and finds 1.0 to be no integer. A key that is there twice is kept, a byte order mark
skipped, and bytes that are not UTF-8 pass through.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any

import numpy as np
import rapidjson

from client.errors import ClientError

# RapidJSON calls itself for lists within lists.
MAX_DEPTH = 512

_MODE = rapidjson.NM_NATIVE | rapidjson.NM_NAN
_ERROR = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# Characters that stand for bytes that are not UTF-8 while the parser runs. Unicode has given them
# for private use, and says that the last two are none.
_FIRST, _LAST = 0x10FF80, 0x10FFFF
_STAND_IN = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_ESCAPED = re.compile(r"\\udbff", re.IGNORECASE)
# Python's own stand-ins for the same bytes, 0x80 to 0xff.
_SURROGATES = {0xDC80 + i: _FIRST + i for i in range(128)}
_BACK = {stand_in: surrogate for surrogate, stand_in in _SURROGATES.items()}

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


class _Decoder(rapidjson.Decoder):
    def start_object(self) -> list[Any]:
        return []

    def end_object(self, members: list[tuple[str, Any]]) -> Members:
        return Members(members)


class _BytesDecoder(_Decoder):
    """Gives bytes that are not UTF-8 back, as Python's surrogate escapes."""

    def end_object(self, members: list[tuple[str, Any]]) -> Members:
        return Members((name.translate(_BACK), value) for name, value in members)

    def string(self, text: str) -> str:
        return text.translate(_BACK)


_decode = _Decoder(number_mode=_MODE)
_decode_bytes = _BytesDecoder(number_mode=_MODE)


def parse(body: bytes) -> Members:
    """Parse a request's body.

    Returns:
        Its object; strings with bytes that are not UTF-8 as surrogate escapes.

    Raises:
        ClientError: the body is no JSON, or no object.
    """
    if not body:
        raise refusal("JSON Parse error: The document is empty")
    start = _after_mark(body)
    if _depth(body) > MAX_DEPTH:
        raise refusal(f"JSON Parse error: more than {MAX_DEPTH} lists or objects in one another")
    try:
        document = _loads(body[start:])
    except _JsonError as error:
        raise refusal(f"JSON Parse error: {error.text} at offset: {error.offset + start}") from None
    if not isinstance(document, Members):
        raise refusal(f"JSON Value: {quoted(document)} Is not object")
    return document


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


class _JsonError(Exception):
    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        self.text = text
        self.offset = offset


def _loads(data: bytes) -> Any:
    try:
        return _parsed(_decode, data)
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", "surrogateescape")
    if _STAND_IN.search(text) or _ESCAPED.search(text):
        raise _JsonError("Invalid encoding in string.", 0)
    stand_in = text.translate(_SURROGATES).encode()
    try:
        return _parsed(_decode_bytes, stand_in)
    except _JsonError as error:
        before = stand_in[: error.offset].decode(errors="ignore").translate(_BACK)
        raise _JsonError(error.text, len(to_bytes(before))) from None


def _parsed(decode: rapidjson.Decoder, data: bytes) -> Any:
    try:
        return decode(data)
    except rapidjson.JSONDecodeError as error:
        match = _ERROR.fullmatch(str(error))
        if match is None:
            raise
        raise _JsonError(match[2], int(match[1])) from None


def _after_mark(body: bytes) -> int:
    """Return where the document starts; of a byte order mark each byte is skipped by itself."""
    start = 0
    for byte in b"\xef\xbb\xbf":
        if body[start : start + 1] == bytes([byte]):
            start += 1
    return start


def _depth(body: bytes) -> int:
    """Return how deep lists and objects stand in one another, or less if it is no matter."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0
    marks = np.frombuffer(_STRING.sub(b"", body), np.uint8)
    opened = np.cumsum((marks == ord("[")) | (marks == ord("{")), dtype=np.int32)
    closed = np.cumsum((marks == ord("]")) | (marks == ord("}")), dtype=np.int32)
    return int((opened - closed).max())


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
