"""Payloads: the same rows in each peer's request format, and decoders for the responses."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

MODEL = "breast_cancer"
SIGNATURE = "dense"

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Codec:
    """A format: encodes rows as a request's body, and decodes probabilities from a response's."""

    name: str
    content_type: str
    encode: Callable[[Floats], bytes]
    decode: Callable[[bytes], Floats]


def rows(count: int) -> Floats:
    """Return rows `[count, 30]` of the training table, which is repeated if it is shorter."""
    from sklearn.datasets import load_breast_cancer

    table: Floats = load_breast_cancer().data
    return np.resize(table, (count, table.shape[1]))


def _json(
    name: str, write: Callable[[list[list[float]]], Any], read: Callable[[Any], Any]
) -> Codec:
    return Codec(
        name,
        "application/json",
        lambda rows: orjson.dumps(write(rows.tolist())),
        lambda body: np.asarray(read(orjson.loads(body)), np.float64),
    )


def _write_npy(rows: Floats) -> bytes:
    file = io.BytesIO()
    np.save(file, rows.astype(np.float32))
    return file.getvalue()


def _read_npy(body: bytes) -> Floats:
    array: Floats = np.load(io.BytesIO(body))
    return array if array.dtype.names is None else array["probability"]


def _write_arrow(rows: Floats) -> bytes:
    import pyarrow as pa
    from sklearn.datasets import load_breast_cancer

    names = [name.replace(" ", "_") for name in load_breast_cancer().feature_names]
    columns = rows.astype(np.float32).T
    batch = pa.record_batch([pa.array(column) for column in columns], names=names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _read_arrow(body: bytes) -> Floats:
    import pyarrow as pa

    with pa.ipc.open_stream(body) as reader:
        probabilities: Floats = reader.read_all()["probability"].to_numpy()
    return probabilities


TENSORFLOW_SERVING = _json(
    "tensorflow-serving",
    lambda rows: {"signature_name": SIGNATURE, "instances": rows},
    lambda response: [row["probability"] for row in response["predictions"]],
)
OPEN_INFERENCE = _json(
    "open-inference",
    lambda rows: {
        "inputs": [
            {
                "name": "features",
                "shape": [len(rows), len(rows[0])],
                "datatype": "FP32",
                "data": rows,
            }
        ]
    },
    lambda response: response["outputs"][0]["data"],
)
# The usual format of hand-written apps.
PLAIN = _json("plain", lambda rows: {"instances": rows}, lambda response: response["predictions"])
BARE_LIST = _json("bare-list", lambda rows: {"instances": rows}, lambda response: response)
NPY = Codec("npy", "application/x-npy", _write_npy, _read_npy)
ARROW = Codec("arrow", "application/vnd.apache.arrow.stream", _write_arrow, _read_arrow)
