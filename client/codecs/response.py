"""HTTP responses as codecs build them."""

from __future__ import annotations

from typing import NamedTuple

JSON = "application/json"

Headers = tuple[tuple[str, str], ...]


class Response(NamedTuple):
    """A response.

    Attributes:
        headers: further headers.
        prediction_id: id of the predictions, sent as a header; apart from the headers because it
            differs in every response.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Headers = ()
    prediction_id: str | None = None
