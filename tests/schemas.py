"""Schemas of models that exist only for tests of what reads and writes requests."""

from __future__ import annotations

from dataclasses import replace

from client.messages import DataType, SignatureDefMap
from client.schema import Column, Description, Schema, Signature, TensorSpec


def spec(dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(DataType.Value(f"DT_{dtype}"), shape)


def any_rank(dtype: str) -> TensorSpec:
    return TensorSpec(DataType.Value(f"DT_{dtype}"), None)


def column(name: str, *vocabulary: str, missing: bool = False) -> Column:
    kind = "categorical" if vocabulary else "numeric"
    return Column(name, kind, vocabulary, 0, 1, -1, 1, (0, 0), (-1, -1), missing)


def describing(of: Schema, *columns: Column) -> Schema:
    return replace(of, description=Description(columns, ("no", "yes"), 0.5, "", {}))


def schema(columns: tuple[str, ...] = (), /, **inputs: TensorSpec) -> Schema:
    """A model with the signature serving_default; columns make it describe itself."""
    signatures = {"serving_default": Signature(inputs, {})}
    plain = Schema("m", 1, signatures, None, SignatureDefMap())
    return describing(plain, *map(column, columns)) if columns else plain
