"""The dialects in which predictions are asked for and told: bytes to arrays, and arrays to bytes.

Nothing here touches the network; each module is one dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from client.serving.tensors import Array


class Call(NamedTuple):
    """What a request asks of a model, whatever the dialect it came in.

    Attributes:
        signature_name: the signature to run.
        inputs: an array for each of its inputs.
        output_filter: names of the outputs that are wanted; empty for all.
    """

    signature_name: str
    inputs: Mapping[str, Array]
    output_filter: tuple[str, ...] = ()


class JsonCall(NamedTuple):
    """A call that came as JSON.

    Attributes:
        call: what is asked of the model.
        row_form: whether it came row by row, and is to be answered so; else column by column.
    """

    call: Call
    row_form: bool
