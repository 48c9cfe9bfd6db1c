"""Ids of predictions: the caller's own, else a UUID of version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator

PREDICTION_ID_HEADER = "X-Prediction-ID"
_ID = re.compile(r"[\w.:/=+-]{1,128}", re.ASCII)


def is_id(text: str) -> bool:
    """Return whether a text may be an id: up to 128 letters, digits and `. _ : / = + -`."""
    return _ID.fullmatch(text) is not None


def new_ids() -> Iterator[str]:
    """Yield ids with the current time."""
    # Ids are unique but not secret: feedback is accepted for any id.
    now = f"{time.time_ns() // 1_000_000:012x}"
    prefix = f"{now[:8]}-{now[8:]}-7"
    while True:
        bits = random.getrandbits(74)
        middle, end = bits >> 62, bits & (2**62 - 1) | 2**63
        last = f"{end:016x}"
        yield f"{prefix}{middle:03x}-{last[:4]}-{last[4:]}"


def is_sampled(identity: str, share: float) -> bool:
    """Return whether a prediction belongs to a share, the same for log, trace and feedback."""
    if share >= 1:
        return True
    digest = hashlib.sha256(identity.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
