"""Bodies of types that OpenAPI cannot describe: random bytes, some after a valid prefix."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

PREFIXES = {
    "text/csv": b"Age (years),income\n1,2\n",
    "application/x-ndjson": b'{"rooms": 1}\n[1, 2]\n',
    "application/vnd.apache.arrow.stream": b"\xff\xff\xff\xff\x10\0\0\0",
    "application/x-npy": b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, ",
    "application/octet-stream": b"\0\0\x80?",
}

for media_type, prefix in PREFIXES.items():
    any_bytes = st.binary(max_size=50)
    schemathesis.openapi.media_type(media_type, any_bytes | any_bytes.map(prefix.__add__))
