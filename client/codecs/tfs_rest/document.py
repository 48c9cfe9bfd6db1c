"""Request bodies as TensorFlow Serving parses them.

The first of duplicate keys counts, text after the document is ignored, and bytes that are not UTF-8
pass through as Python's surrogate escapes.
"""

from __future__ import annotations

import codecs
from typing import Any

from client.codecs import lenient_json
from client.codecs.json import arrays
from client.codecs.lenient_json import JsonError
from client.errors import ClientError

EXPECTED = 'expected {"instances": [...]} or {"inputs": ...}'


class Members(tuple[tuple[str, Any], ...]):
    """A JSON object: its keys and values in order, duplicate keys included."""

    __slots__ = ()

    def first(self, key: str, default: Any = None) -> Any:
        """Return the first value of a key."""
        return next((value for name, value in self if name == key), default)


ABSENT = object()


def parse(body: bytes) -> Members:
    """Parse a body that holds an object.

    Raises:
        ClientError: the body is not JSON, or not an object.
    """
    text = body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    if not text.strip():
        raise ClientError(f"the body is empty; {EXPECTED}")
    try:
        document = lenient_json.loads(text, Members, ignore_trailing=True)
    except JsonError as error:
        raise invalid_request(f"the body is not JSON: {error}; {EXPECTED}") from None
    if not isinstance(document, Members):
        raise invalid_request(f"the body is {describe(document)}; {EXPECTED}")
    return document


def invalid_request(message: str) -> ClientError:
    """Return an error, with replacement characters for bytes of the message that are not UTF-8."""
    return ClientError(message.encode("utf-8", "surrogateescape").decode(errors="replace"))


def to_bytes(text: str) -> bytes:
    """Return the bytes that a string was decoded from."""
    return text.encode("utf-8", "surrogateescape")


def describe(value: Any) -> str:
    """Describe a JSON value briefly."""
    return "an object" if isinstance(value, Members) else arrays.describe(value)


def json_type(value: Any) -> str:
    """Return RapidJSON's name for a value's type, as in TensorFlow Serving's messages."""
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", list: "Array", str: "String", Members: "Object"}
    return names.get(type(value), "Number")
