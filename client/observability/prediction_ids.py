"""IDs of predictions: the caller's own, or a version 7 UUID (RFC 9562, section 5.7)."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator

PREDICTION_ID_HEADER = "X-Prediction-ID"
_ID = re.compile(r"[\w.:/=+-]{1,128}", re.ASCII)


def is_id(text: str) -> bool:
    """Return whether a text may be an ID: up to 128 letters, digits and `. _ : / = + -`."""
    return _ID.fullmatch(text) is not None


def new_ids() -> Iterator[str]:
    """Yield IDs that begin with the current time."""
    # IDs are unique but not secret: feedback is accepted for any ID.
    now = f"{time.time_ns() // 1_000_000:012x}"
    prefix = f"{now[:8]}-{now[8:]}-7"
    while True:
        bits = random.getrandbits(74)
        rand_a, rand_b = bits >> 62, bits & (2**62 - 1)
        suffix = f"{2**63 | rand_b:016x}"
        yield f"{prefix}{rand_a:03x}-{suffix[:4]}-{suffix[4:]}"


def is_sampled(prediction_id: str, share: float) -> bool:
    """Return whether a prediction belongs to a share of all, decided by its ID alone."""
    if share >= 1:
        return True
    digest = hashlib.sha256(prediction_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
