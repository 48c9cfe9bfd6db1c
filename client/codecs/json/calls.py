"""Calls decoded from JSON."""

from __future__ import annotations

from typing import NamedTuple

from client.codecs.batches import Call


class JsonCall(NamedTuple):
    """A call decoded from JSON.

    Attributes:
        call: the call to the model.
        row_form: whether request and response are in row form, not in column form.
        threshold: probability at and above which the label is the second class, if the request
            sets it.
    """

    call: Call
    row_form: bool
    threshold: float | None = None
