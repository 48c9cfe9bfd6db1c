"""What a client may know of models, put together by hand where no server is needed to know it."""

from __future__ import annotations

from client.messages import DataType
from client.schema import Column, Description, Schema, Signature, TensorSpec
from client.tensors import STRING

FLOAT = DataType.Value("DT_FLOAT")
INT64 = DataType.Value("DT_INT64")
BOOL = DataType.Value("DT_BOOL")

COLUMN = TensorSpec(FLOAT, (None,))
OUTPUTS = {
    "label": TensorSpec(STRING, (None,)),
    "logit": COLUMN,
    "probability": COLUMN,
}


def _schema(columns: tuple[Column, ...], signatures: dict[str, Signature]) -> Schema:
    description = Description(columns, ("no", "yes"), 0.5, "2025-01-02T03:04:05+00:00", {})
    return Schema("m", 1, signatures, description, None)


def _column(
    name: str, kind: str = "numeric", vocabulary: tuple[str, ...] = (), *, missing: bool = False
) -> Column:
    modes = (0, len(vocabulary) - 1)
    return Column(name, kind, vocabulary, 1.0, 1.0, 0.0, 2.0, (0.5, 1.5), modes, missing)


def numeric(*names: str) -> Schema:
    """A model of nothing but numbers, with the signature `dense`."""
    names = names or ("b", "a", "c")
    return _schema(
        tuple(_column(name) for name in names),
        {
            "dense": Signature({"features": TensorSpec(FLOAT, (None, len(names)))}, OUTPUTS),
            "serving_default": Signature(dict.fromkeys(sorted(names), COLUMN), OUTPUTS),
        },
    )


def mixed() -> Schema:
    """A model with a column of every kind."""
    columns = (
        _column("size"),
        _column("income", missing=True),
        _column("city", "categorical", ("Bern", "Basel")),
        _column("district", "categorical", ("7", "42"), missing=True),
        _column("garden", "boolean", ("false", "true"), missing=True),
        _column("rooms", "categorical", ("3", "2")),
        _column("balcony", "boolean", ("false", "true")),
    )
    dtypes = (FLOAT, FLOAT, STRING, STRING, STRING, INT64, BOOL)
    inputs = {c.name: TensorSpec(d, (None,)) for c, d in zip(columns, dtypes, strict=True)}
    return _schema(columns, {"serving_default": Signature(dict(sorted(inputs.items())), OUTPUTS)})


def undescribed(**inputs: TensorSpec) -> Schema:
    """A model that says nothing of itself."""
    signature = Signature(inputs, {"y": COLUMN})
    return Schema("m", 1, {"serving_default": signature}, None, None)
