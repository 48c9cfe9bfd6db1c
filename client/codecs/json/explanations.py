"""Explanations: each column's contribution to the log-odds, by column name.

`{"explanations": [{"bias": …, "contribution": {column: value, …}}, …]}`, one object per row; the
contributions and the bias add up to the logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from client.codecs.json.calls import JsonCall
from client.codecs.json.rows import parse_body, read_document
from client.errors import ClientError
from client.serving.schema import EXPLAIN, Schema
from client.serving.tensors import Array


def explains(schema: Schema) -> bool:
    """Return whether a model has the signature `explain`, with an input for each column."""
    return EXPLAIN in schema.signatures and schema.column_order(EXPLAIN) is not None


def read(body: bytes, schema: Schema) -> JsonCall:
    """Decode the rows to explain; the body is that of `/predict` without a signature.

    Raises:
        ClientError: 501, the model cannot explain its predictions; 400, the body is invalid.
    """
    if not explains(schema):
        raise ClientError(
            f'model {schema.model} has no signature "explain" with an input for each column', 501
        )
    document: Any = parse_body(body)
    if isinstance(document, dict):
        if "signature_name" in document:
            raise ClientError('unknown key "signature_name"; the signature is always "explain"')
        document = {**document, "signature_name": EXPLAIN}
    return read_document(document, schema)


def write(outputs: Mapping[str, Array], schema: Schema) -> bytes:
    """Encode the response.

    Args:
        outputs: outputs of `explain`: `contribution` [rows, columns], `bias` [rows].
        schema: schema of the version that computed them.

    Raises:
        ClientError: 501, the outputs are not those of `explain` as this project exports it.
    """
    order = schema.column_order(EXPLAIN) or ()
    contributions, bias = outputs.get("contribution"), outputs.get("bias")
    if contributions is None or bias is None or contributions.shape != (len(bias), len(order)):
        raise ClientError(
            f'model {schema.model}: expected the outputs "contribution" [rows, columns] and "bias" '
            '[rows] of the signature "explain"',
            501,
        )
    rows = [
        {"bias": row_bias, "contribution": dict(zip(order, row, strict=True))}
        for row_bias, row in zip(np.asarray(bias), contributions, strict=True)
    ]
    return orjson.dumps({"explanations": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
