"""JSON as TensorFlow Serving reads it.

Its parser is RapidJSON, and so is the one here: where a body is no JSON it says so in the same
words and counts the same offset. It reads NaN, Infinity, Inf and the same with a minus, stops at a
zero byte, and finds 1.0 to be no integer. A key that is there twice is kept, a byte order mark
skipped, and bytes that are not UTF-8 pass through.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import rapidjson

from client.codecs.tfs_rest.values import Members, quoted, refusal, to_bytes

# RapidJSON calls itself for lists within lists.
MAX_DEPTH = 512

_MODE = rapidjson.NM_NATIVE | rapidjson.NM_NAN
_ERROR = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
# One that is not closed ends with the body, so that nothing is looked at twice.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
# Characters that stand for bytes that are not UTF-8 while the parser runs. Unicode has given them
# for private use, and says that the last two are none.
_FIRST, _LAST = 0x10FF80, 0x10FFFF
_STAND_IN = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_ESCAPED = re.compile(r"\\udbff", re.IGNORECASE)
# Python's own stand-ins for the same bytes, 0x80 to 0xff.
_SURROGATES = {0xDC80 + i: _FIRST + i for i in range(128)}
_BACK = {stand_in: surrogate for surrogate, stand_in in _SURROGATES.items()}


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
    try:
        if _depth(body) > MAX_DEPTH:
            raise RecursionError
        document = _loads(body[start:])
    except RecursionError:
        raise refusal(
            f"JSON Parse error: more than {MAX_DEPTH} lists or objects in one another"
        ) from None
    except _JsonError as error:
        raise refusal(f"JSON Parse error: {error.text} at offset: {error.offset + start}") from None
    if not isinstance(document, Members):
        raise refusal(f"JSON Value: {quoted(document)} Is not object")
    return document


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
    return int((opened - closed).max(initial=0))
