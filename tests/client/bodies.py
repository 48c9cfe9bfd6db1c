"""Valid request bodies in every format."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from client.codecs.tables import ARROW, CSV, NDJSON, NPY


def arrow(table: Any) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return out.getvalue()


def csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    lines = [columns, *zip(*columns.values(), strict=True)]
    return "\n".join(",".join("" if v is None else str(v) for v in line) for line in lines).encode()


def objects(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def ndjson(columns: Mapping[str, Sequence[Any]]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in objects(columns))


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


ROWS: dict[str, Any] = {
    "size": [1.0, 2.5, 3.0, 4.0],
    "income": [1.0, None, 2.0, 3.0],
    "city": ["Bern", "Basel", "Zug", "x"],
    "district": ["7", None, "42", "1"],
    "garden": ["true", None, "false", "x"],
    "rooms": [1, 2, 3, 4],
    "balcony": [True, False, True, True],
}
TABLES = {
    CSV: [
        b"a,b,c\n1,2,3\n4,5,6\n",
        csv(ROWS),
        b'a,b,c\n"1","2",3\n',
    ],
    NDJSON: [
        b'{"a":1,"b":2,"c":3}\n{"c":1,"b":2,"a":3}\n',
        b"[1,2,3]\n[4,5,6]\n",
        ndjson(ROWS),
        b'{"x": [1, 2], "s": "a"}\n{"x": [1, 2], "s": {"b64": "YQ=="}}',
    ],
    ARROW: [
        arrow(pa.table({name: [1.0, 2.0, 3.0, 4.0] for name in "abc"})),
        arrow(pa.table(ROWS)),
        arrow(
            pa.table(
                {
                    **ROWS,
                    "city": pa.array(ROWS["city"]).dictionary_encode(),
                    "district": pa.array(ROWS["district"], pa.large_string()),
                    "garden": pa.array(ROWS["garden"], pa.large_string()).dictionary_encode(),
                }
            )
        ),
        arrow(
            pa.table(
                {
                    **ROWS,
                    "size": pa.array([1.0, 2.0, 3.0, 4.0], pa.float16()),
                    "income": pa.nulls(4),
                    "city": pa.array(["Bern", "x" * 20, "", "y" * 30], pa.string_view()),
                    "district": pa.array(["7", "x" * 20, None, "1"], pa.string_view())
                    .dictionary_encode()
                    .cast(pa.dictionary(pa.int8(), pa.string_view())),
                    "rooms": pa.array([1, 2, 3, 4], pa.uint8()),
                }
            )
        ),
        arrow(
            pa.table(
                {"x": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)), "s": ROWS["city"]}
            )
        ),
    ],
    NPY: [npy(np.ones([4, 3], np.float32)), npy(np.ones([4, 3], ">i2", order="F"))],
}


INFER_SEEDS = [
    orjson.dumps(
        {
            "id": "1",
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2.5]]},
                {"name": "s", "shape": [1], "datatype": "BYTES", "data": ["a"]},
            ],
            "outputs": [{"name": "label", "parameters": {"binary_data": True}}],
            "parameters": {"binary_data_output": False, "signature_name": ""},
        }
    ),
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,1]}]}',
    orjson.dumps(
        {
            "inputs": [
                {"name": n, "shape": [1], "datatype": "FP32", "data": [1]} for n in ("a", "b", "c")
            ]
        }
    ),
]
