"""Calls that came as JSON."""

from __future__ import annotations

from typing import NamedTuple

from client.codecs.batches import Call


class JsonCall(NamedTuple):
    """A call that came as JSON.

    Attributes:
        call: what is asked of the model.
        row_form: whether it came row by row, and is to be answered so; else column by column.
        threshold: probability from which on the label is the second class, if the request says.
    """

    call: Call
    row_form: bool
    threshold: float | None = None
