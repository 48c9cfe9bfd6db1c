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


def microseconds(work: Callable[[], Any]) -> float:
    """Return the shortest duration of a call, in microseconds."""
    timer = timeit.Timer(work)
    number = max(1, int(0.005 / min(timer.repeat(3, 1))))
    return min(timer.repeat(REPEATS, number)) / number * 1e6


def main() -> None:
    """Print a table."""
    described, plain = schemas()
    random = np.random.default_rng(1)
    table = random.uniform(0, 1000, (max(ROWS), len(NAMES))).round(3).tolist()
    print(f"{'microseconds':44}" + "".join(f"{rows:>6} rows" for rows in ROWS))

    def line(what: str, work: Callable[[int], Callable[[], Any]]) -> None:
        print(f"{what:44}" + "".join(f"{microseconds(work(rows)):11.1f}" for rows in ROWS))

    def reading(schema: Schema, **keys: Callable[[list[Any]], Any]) -> Callable[[int], Any]:
        def work(rows: int) -> Callable[[], Any]:
            body = orjson.dumps({key: make(table[:rows]) for key, make in keys.items()})
            assert fast.read(body, schema) is not None
            return lambda: predict.read(body, schema)

        return work

    def objects(rows: list[Any]) -> Any:
        return [dict(zip(NAMES, row, strict=True)) for row in rows]

    def columns(rows: list[Any]) -> Any:
        return dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))

    def with_numpy(rows: int) -> Callable[[], Any]:
        body = orjson.dumps({"instances": table[:rows]})
        return lambda: np.array(orjson.loads(body)["instances"], np.float32)

    def outputs(rows: int) -> dict[str, Any]:
        labels = np.array([b"benign", b"malignant"], object)[random.integers(0, 2, rows)]
        numbers = random.normal(size=rows).astype(np.float32)
        return {"label": labels, "logit": numbers, "probability": numbers}

    def writing(*, row_form: bool) -> Callable[[int], Any]:
        def work(rows: int) -> Callable[[], Any]:
            made = outputs(rows)
            return lambda: predict.write(made, row_form=row_form)

        return work

    line("read lists of 30 numbers", reading(described, instances=list))
    line("read lists, into numpy by orjson and np.array", with_numpy)
    line("read objects, one matrix", reading(described, instances=objects))
    line("read objects, 30 tensors", reading(plain, instances=objects))
    line("read columns, 30 tensors", reading(plain, inputs=columns))
    line("write three outputs in row form", writing(row_form=True))
    line("write three outputs in column form", writing(row_form=False))


if __name__ == "__main__":
    main()
