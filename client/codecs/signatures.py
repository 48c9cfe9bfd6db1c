"""Lookup of the signature that a request names."""

from __future__ import annotations

from typing import Any

from client.codecs.json.arrays import describe
from client.errors import ClientError
from client.serving.schema import DEFAULT_SIGNATURE, Schema, Signature


def find_signature(schema: Schema, name: Any) -> tuple[str, Signature]:
    """Return a signature's name and the signature; the default one's if the name is empty.

    Raises:
        ClientError: the name is not a string, or the model has no such signature.
    """
    if not isinstance(name, str):
        raise ClientError(f"signature_name: expected a string, got {describe(name)}")
    signature = schema.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        known = ", ".join(sorted(schema.signatures))
        raise ClientError(
            f'signature_name: model {schema.model} has no "{name[:100] or DEFAULT_SIGNATURE}"; '
            f"it has {known}"
        )
    return name or DEFAULT_SIGNATURE, signature
