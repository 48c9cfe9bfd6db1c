"""The schema of a served version: its signatures, and its description of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from client.serving.columns import Column as Column
from client.serving.columns import make_column
from client.serving.tensors import Array, dtype_name

DESCRIBE = "describe"
EXPLAIN = "explain"
DENSE = "dense"
DENSE_INPUT = "features"
DEFAULT_SIGNATURE = "serving_default"
# Prefix of TensorFlow's internal signatures.
INTERNAL_PREFIX = "__"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    Attributes:
        dtype: a `tensorflow.DataType`.
        shape: its dimensions, None where free; None as a whole if the rank is unknown.
    """

    dtype: int
    shape: tuple[int | None, ...] | None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor of a shape fits."""
        if self.shape is None:
            return True
        if len(shape) != len(self.shape):
            return False
        for expected, actual in zip(self.shape, shape, strict=True):  # twice as fast as a generator
            if expected is not None and expected != actual:
                return False
        return True

    def __str__(self) -> str:
        if self.shape is None:
            return f"{dtype_name(self.dtype)} of any shape"
        lengths = ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{dtype_name(self.dtype)} [{lengths}]"


@dataclass(frozen=True)
class Signature:
    """One way to call a model: its inputs and outputs by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @cached_property
    def batched(self) -> bool:
        """Whether the first dimension of every input and output is free: the batch."""
        specs = (*self.inputs.values(), *self.outputs.values())
        return bool(self.inputs) and all(spec.shape and spec.shape[0] is None for spec in specs)


@dataclass(frozen=True)
class Description:
    """A model's description of itself, the outputs of its signature `describe`.

    Attributes:
        columns: in the order of the table.
        class_names: names of class 0 and class 1.
        threshold: probability at and above which the label is the second class.
        trained_at: ISO 8601.
        metrics: values on the held-out rows, by name.
        label_name: the label column's name; empty if the model does not say.
        reference: JSON text, the distribution of the training rows; None if absent.
        golden: JSON text, rows with the probabilities that training computed; None if absent.
        intervals: 95% intervals of the metrics; empty if the model does not give them.
    """

    columns: tuple[Column, ...]
    class_names: tuple[str, str]
    threshold: float
    trained_at: str
    metrics: Mapping[str, float]
    label_name: str = ""
    reference: str | None = None
    golden: str | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Array]) -> Description:
        """Read the outputs of `describe` for one query.

        Raises:
            KeyError, ValueError, IndexError, TypeError, AttributeError, RuntimeError: the outputs
                are not in the form of `describe`.
        """
        fields = {name: values[0] for name, values in outputs.items()}
        vocabulary = iter(_texts(fields["vocabulary_values"]))
        lengths = fields["vocabulary_lengths"].tolist()
        # Models exported by earlier versions lack some of these.
        first = np.where(fields["vocabulary_lengths"] > 0, 0, -1)
        modes = fields.get("class_modes", np.stack([first, first]))
        missing = fields.get("missing", np.zeros(len(lengths), np.bool_))
        most_frequent = fields["modes"].tolist() if "modes" in fields else [None] * len(lengths)
        marks = frozenset(_texts(fields["missing_marks"]) if "missing_marks" in fields else ())
        columns = zip(
            _texts(fields["kinds"]),
            _texts(fields["columns"]),
            [tuple(next(vocabulary) for _ in range(length)) for length in lengths],
            fields["means"].tolist(),
            fields["deviations"].tolist(),
            fields["minimums"].tolist(),
            fields["maximums"].tolist(),
            [(mean_0, mean_1) for mean_0, mean_1 in fields["class_means"].T.tolist()],
            [(int(mode_0), int(mode_1)) for mode_0, mode_1 in modes.T],
            missing.tolist(),
            most_frequent,
            [marks] * len(lengths),
            _texts(fields["date_forms"]) if "date_forms" in fields else [""] * len(lengths),
            strict=True,
        )
        class_0, class_1 = _texts(fields["class_names"])
        metric_names = _texts(fields["metric_names"])
        intervals = fields.get("metric_intervals", np.empty((0, 2))).tolist()
        return cls(
            columns=tuple(make_column(*column) for column in columns),
            class_names=(class_0, class_1),
            threshold=float(fields["threshold"]),
            trained_at=fields["trained_at"].decode(),
            metrics=dict(zip(metric_names, fields["metric_values"].tolist(), strict=True)),
            label_name=_text(fields, "label_name") or "",
            reference=_text(fields, "reference"),
            golden=_text(fields, "golden"),
            intervals={
                name: (low, high)
                for name, (low, high) in zip(metric_names, intervals, strict=False)
            },
        )


@dataclass(frozen=True, eq=False)
class Schema:
    """A served version as the client sees it.

    Compared by identity; `equals` compares their contents.

    Attributes:
        model: the model's name.
        version: the version's number.
        signatures: by name.
        description: the model's description of itself; None without a `describe` signature.
        definition: the signatures as the server sent them, a `SignatureDefMap`.
    """

    model: str
    version: int
    signatures: Mapping[str, Signature]
    description: Description | None
    definition: Any = field(repr=False)

    def equals(self, other: Schema) -> bool:
        """Return whether both are of the same version and have the same contents."""
        return (self.version, self.definition, self.description) == (
            other.version,
            other.definition,
            other.description,
        )

    def reads_like(self, other: Schema) -> bool:
        """Return whether both versions decode a request to the same call."""
        return self._form == other._form and self.definition == other.definition

    @cached_property
    def _form(self) -> tuple[object, ...]:
        """Everything in the description that determines how values are read."""
        columns = self.description.columns if self.description else ()
        return tuple(
            (c.name, c.kind, c.vocabulary, c.missing, c.mode, c.form, c.marks) for c in columns
        )

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """A cache for values derived from the schema."""
        return {}

    @cached_property
    def input_columns(self) -> Mapping[str, Mapping[str, tuple[Column, ...]]]:
        """The columns of each input that the model describes, by signature and input.

        The matrix of `dense` holds all columns, any other input its own.
        """
        by_signature: dict[str, Mapping[str, tuple[Column, ...]]] = {}
        columns = self.description.columns if self.description else ()
        for name, signature in self.signatures.items():
            matrix = signature.inputs.get(DENSE_INPUT)
            if self.column_order(name) is not None:
                by_signature[name] = {column.name: (column,) for column in columns}
            elif name == DENSE and matrix is not None and matrix.shape == (None, len(columns)):
                by_signature[name] = {DENSE_INPUT: columns}
        return by_signature

    def dense_order(self, signature_name: str) -> tuple[str, ...] | None:
        """Return the order of the columns if `dense` computes the same from one matrix.

        A call with one tensor is several times faster than with one per column.
        """
        return self._dense_order if signature_name == DEFAULT_SIGNATURE else None

    def column_order(self, signature_name: str) -> tuple[str, ...] | None:
        """Return the order in which a plain list fills a signature's inputs, if there is one."""
        return self._column_orders[signature_name]

    @cached_property
    def _column_orders(self) -> Mapping[str, tuple[str, ...] | None]:
        columns = self.description.columns if self.description else ()
        order = tuple(column.name for column in columns)
        return {
            name: order if order and set(order) == set(signature.inputs) else None
            for name, signature in self.signatures.items()
        }

    @cached_property
    def _dense_order(self) -> tuple[str, ...] | None:
        order = self._column_orders.get(DEFAULT_SIGNATURE)
        dense = self.signatures.get(DENSE)
        if order is None or dense is None:
            return None
        default = self.signatures[DEFAULT_SIGNATURE]
        matrix = dense.inputs.get(DENSE_INPUT)
        is_equivalent = (
            matrix is not None
            and dense.inputs.keys() == {DENSE_INPUT}
            and matrix.shape == (None, len(order))
            and all(spec == TensorSpec(matrix.dtype, (None,)) for spec in default.inputs.values())
            and dense.outputs == default.outputs
        )
        return order if is_equivalent else None


def read_signatures(definition: Any) -> dict[str, Signature]:
    """Read a `SignatureDefMap`; names are sorted, as the map has no order."""
    return {
        name: Signature(_specs(signature.inputs), _specs(signature.outputs))
        for name, signature in sorted(definition.signature_def.items())
        if not name.startswith(INTERNAL_PREFIX)
    }


def order_inputs(
    signatures: Mapping[str, Signature], description: Description | None
) -> dict[str, Signature]:
    """Return the signatures with their inputs in the order of the table's columns."""
    names = [column.name for column in description.columns] if description else []
    return {
        name: replace(signature, inputs={n: signature.inputs[n] for n in names})
        if set(names) == signature.inputs.keys()
        else signature
        for name, signature in signatures.items()
    }


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {name: _spec(info) for name, info in sorted(infos.items())}


def _spec(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    if shape.unknown_rank:
        return TensorSpec(info.dtype, None)
    return TensorSpec(info.dtype, tuple(dim.size if dim.size >= 0 else None for dim in shape.dim))


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    return fields[name].decode() if name in fields else None


def _texts(values: Array) -> list[str]:
    return [value.decode() for value in values.tolist()]
