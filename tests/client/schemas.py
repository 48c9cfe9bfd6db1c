"""Schemas of models, built by hand for tests without a server."""

from __future__ import annotations

from dataclasses import replace

from client.serving.columns import Column, make_column
from client.serving.protos import DataType, SignatureDefMap
from client.serving.schema import Description, Schema, Signature, TensorSpec
from client.serving.tensors import DTYPES, STRING

FLOAT = DataType.Value("DT_FLOAT")
INT64 = DataType.Value("DT_INT64")
BOOL = DataType.Value("DT_BOOL")
BFLOAT16 = DataType.Value("DT_BFLOAT16")

COLUMN = TensorSpec(FLOAT, (None,))
OUTPUTS = {
    "label": TensorSpec(STRING, (None,)),
    "logit": COLUMN,
    "probability": COLUMN,
}


def spec(dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(DataType.Value(f"DT_{dtype}"), shape)


def any_rank(dtype: str) -> TensorSpec:
    return TensorSpec(DataType.Value(f"DT_{dtype}"), None)


def column(
    name: str, *vocabulary: str, kind: str = "", missing: bool = False, mode: int | None = None
) -> Column:
    """Return a column; its kind is categorical by default if it has a vocabulary."""
    kind = kind or ("categorical" if vocabulary else "numeric")
    modes = (0, len(vocabulary) - 1)
    return make_column(kind, name, vocabulary, 1.0, 1.0, 0.0, 2.0, (0.5, 1.5), modes, missing, mode)


def with_description(base: Schema, *columns: Column) -> Schema:
    """Return `base` with a description of its columns."""
    description = Description(columns, ("no", "yes"), 0.5, "2025-01-02T03:04:05+00:00", {})
    return replace(base, description=description)


def with_label_name(base: Schema, label_name: str) -> Schema:
    """Return `base` with the name of its label column."""
    assert base.description is not None
    return replace(base, description=replace(base.description, label_name=label_name))


def schema(columns: tuple[str, ...] = (), /, **inputs: TensorSpec) -> Schema:
    """Return a schema with one signature, and a description if there are columns."""
    plain = _make_schema({"serving_default": Signature(inputs, {"y": COLUMN})})
    return with_description(plain, *map(column, columns)) if columns else plain


def numeric(*names: str) -> Schema:
    """Return a schema of numeric columns, with the signature `dense`."""
    names = names or ("b", "a", "c")
    signatures = {
        "dense": Signature({"features": TensorSpec(FLOAT, (None, len(names)))}, OUTPUTS),
        "serving_default": Signature(dict.fromkeys(sorted(names), COLUMN), OUTPUTS),
    }
    return with_description(_make_schema(signatures), *map(column, names))


def mixed() -> Schema:
    """Return a schema with numeric, categorical and boolean columns."""
    columns = (
        column("size"),
        column("income", missing=True),
        column("city", "Bern", "Basel"),
        column("district", "7", "42", missing=True),
        column("garden", "false", "true", kind="boolean", missing=True),
        column("rooms", "3", "2"),
        column("balcony", "false", "true", kind="boolean"),
    )
    dtypes = (FLOAT, FLOAT, STRING, STRING, STRING, INT64, BOOL)
    inputs = {c.name: TensorSpec(d, (None,)) for c, d in zip(columns, dtypes, strict=True)}
    signature = Signature(dict(sorted(inputs.items())), OUTPUTS)
    return with_description(_make_schema({"serving_default": signature}), *columns)


def with_explain(base: Schema) -> Schema:
    """Return `base` with the signature `explain`."""
    inputs = base.signatures["serving_default"].inputs
    outputs = {"bias": COLUMN, "contribution": TensorSpec(FLOAT, (None, len(inputs)))}
    return replace(base, signatures={**base.signatures, "explain": Signature(inputs, outputs)})


def every_type() -> Schema:
    """Return a schema with two signatures per dtype, one for pairs and one for any shape."""
    pairs = {"x": TensorSpec(FLOAT, (None, 2)), "s": TensorSpec(STRING, (None,))}
    by_dtype = {
        f"type {dtype}{suffix}": Signature({"x": TensorSpec(dtype, shape)}, OUTPUTS)
        for dtype in (*DTYPES, BFLOAT16)
        for suffix, shape in (("", (None, 2)), (" of any shape", None))
    }
    return _make_schema({"serving_default": Signature(pairs, OUTPUTS), **by_dtype})


def _make_schema(signatures: dict[str, Signature]) -> Schema:
    return Schema("m", 1, signatures, None, SignatureDefMap())
