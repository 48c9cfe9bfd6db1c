"""Cost of decoding and encoding JSON: `python -m benchmarks.json_dialects`.

Nothing is sent: these are the functions that the client runs on its event loop for each request.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from client.codecs.json import fast
from client.codecs.tfs_rest import predict
from client.serving.columns.numeric import NumericColumn
from client.serving.protos import DataType
from client.serving.schema import Description, Schema, Signature, TensorSpec

ROWS = (1, 10, 100, 1000)
NAMES = tuple(f"mean_column_{i}" for i in range(30))
REPEATS = 50


def schemas() -> tuple[Schema, Schema]:
    """Return the schema of a model with a description, and the same schema without it."""
    number = TensorSpec(DataType.Value("DT_FLOAT"), (None,))
    matrix = TensorSpec(number.dtype, (None, len(NAMES)))
    signatures = {
        "serving_default": Signature(dict.fromkeys(sorted(NAMES), number), {"logit": number}),
        "dense": Signature({"features": matrix}, {"logit": number}),
    }
    columns = [
        NumericColumn(name, (), 0, 1, -1, 1, (0, 0), (-1, -1), missing=False) for name in NAMES
    ]
    description = Description(tuple(columns), ("no", "yes"), 0.5, "", {})
    return (
        Schema("m", 1, signatures, description, None),
        Schema("m", 1, signatures, None, None),
    )


def measure_microseconds(function: Callable[[], Any]) -> float:
    """Return the shortest duration of a call, in microseconds."""
    timer = timeit.Timer(function)
    number = max(1, int(0.005 / min(timer.repeat(3, 1))))
    return min(timer.repeat(REPEATS, number)) / number * 1e6


def main() -> None:
    """Print a table of durations by number of rows."""
    described, plain = schemas()
    random = np.random.default_rng(1)
    table = random.uniform(0, 1000, (max(ROWS), len(NAMES))).round(3).tolist()
    print(f"{'microseconds':44}" + "".join(f"{rows:>6} rows" for rows in ROWS))

    def print_line(text: str, prepare: Callable[[int], Callable[[], Any]]) -> None:
        durations = [measure_microseconds(prepare(rows)) for rows in ROWS]
        print(f"{text:44}" + "".join(f"{duration:11.1f}" for duration in durations))

    def prepare_read(schema: Schema, **keys: Callable[[list[Any]], Any]) -> Callable[[int], Any]:
        def prepare(rows: int) -> Callable[[], Any]:
            body = orjson.dumps({key: convert(table[:rows]) for key, convert in keys.items()})
            assert fast.read(body, schema) is not None
            return lambda: predict.read(body, schema)

        return prepare

    def objects(rows: list[Any]) -> Any:
        return [dict(zip(NAMES, row, strict=True)) for row in rows]

    def columns(rows: list[Any]) -> Any:
        return dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))

    def prepare_numpy(rows: int) -> Callable[[], Any]:
        body = orjson.dumps({"instances": table[:rows]})
        return lambda: np.array(orjson.loads(body)["instances"], np.float32)

    def make_outputs(rows: int) -> dict[str, Any]:
        labels = np.array([b"benign", b"malignant"], object)[random.integers(0, 2, rows)]
        numbers = random.normal(size=rows).astype(np.float32)
        return {"label": labels, "logit": numbers, "probability": numbers}

    def prepare_write(*, row_form: bool) -> Callable[[int], Any]:
        def prepare(rows: int) -> Callable[[], Any]:
            outputs = make_outputs(rows)
            return lambda: predict.write(outputs, row_form=row_form)

        return prepare

    print_line("read lists of 30 numbers", prepare_read(described, instances=list))
    print_line("read lists with orjson and np.array only", prepare_numpy)
    print_line("read objects, one matrix", prepare_read(described, instances=objects))
    print_line("read objects, 30 tensors", prepare_read(plain, instances=objects))
    print_line("read columns, 30 tensors", prepare_read(plain, inputs=columns))
    print_line("write three outputs in row form", prepare_write(row_form=True))
    print_line("write three outputs in column form", prepare_write(row_form=False))


if __name__ == "__main__":
    main()
