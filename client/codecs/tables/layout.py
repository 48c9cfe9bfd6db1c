"""How the columns of a table become the inputs of a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.codecs import Call
from client.codecs.json.arrays import to_array
from client.errors import ClientError
from client.serving.columns import NEVER_MISSING, Column
from client.serving.schema import DEFAULT_SIGNATURE, DENSE, DENSE_INPUT, Schema, TensorSpec
from client.serving.tensors import DTYPES, Array

# Rows of a call at the most. A model server that batches may refuse more than it was told to take.
ROWS_PER_CALL = 16_384

# Says where in the table the row with an index stands: "line 17".
Place = Callable[[int], str]


@dataclass(frozen=True)
class TableColumn:
    """A column that a table must have.

    Attributes:
        name: its name.
        spec: dtype and shape of the values of all rows; the first dimension is the rows'.
        column: what the model says of it, None if it says nothing.
    """

    name: str
    spec: TensorSpec
    column: Column | None

    @property
    def described(self) -> tuple[Column, ...]:
        """What the model says of it, as `client.codecs.json.arrays` takes it."""
        return () if self.column is None else (self.column,)

    @property
    def form(self) -> tuple[object, ...]:
        """What decides how values are read."""
        types = None if self.column is None else self.column.json_types
        return self.name, self.spec, self.may_be_missing, types

    @property
    def may_be_missing(self) -> bool:
        """Whether the model takes missing values there."""
        return self.column is not None and self.column.takes_missing(self.spec.dtype)

    def read_values(self, values: list[object], place: Place) -> Array:
        """Turn JSON values, one a row, into an array.

        Raises:
            ClientError: it names the place of the wrong value.
        """

        def at(index: tuple[int, ...]) -> str:
            row = f"{place(index[0])}, " if index else ""
            return f'{row}column "{self.name}"' + "".join(f"[{i}]" for i in index[1:])

        return to_array(values, self.spec, at, self.described)

    def check_finite(self, array: Array, place: Place) -> None:
        """Refuse infinities, and NaN where the model has seen no missing value.

        JSON and CSV cannot hold either; binary tables can.

        Raises:
            ClientError: it names the place of the first.
        """
        if self.column is None or array.dtype.kind != "f":
            return
        wrong = np.isinf(array) if self.may_be_missing else ~np.isfinite(array)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            why = f"; {NEVER_MISSING}" if np.isnan(array[row]) else ""
            raise ClientError(
                f'{place(row)}, column "{self.name}": expected a number, got {array[row]}{why}'
            )


@dataclass(frozen=True)
class TableLayout:
    """What a table must hold to be predicted, and how it is put to the model.

    Attributes:
        signature_name: the signature to run.
        columns: those of the table, in the order in which a row without names holds them.
        matrix: the input that takes all columns side by side; None if each is an input.
        output_filter: names of the outputs that are wanted; empty for all.
    """

    signature_name: str
    columns: tuple[TableColumn, ...]
    matrix: str | None
    output_filter: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, schema: Schema, signature_name: str = "", output_filter: Sequence[str] = ()
    ) -> TableLayout:
        """Return the layout of tables for a signature.

        Args:
            schema: of the model.
            signature_name: the default one if empty. Where its columns are all that `dense` takes
                as one matrix, that is run in its place: it computes the same.
            output_filter: names of the outputs that are wanted; empty for all.

        Raises:
            ClientError: the model has no such signature or output.
        """
        name = signature_name or DEFAULT_SIGNATURE
        signature = schema.signatures.get(name)
        if signature is None:
            known = ", ".join(sorted(schema.signatures))
            raise ClientError(
                f'signature_name: model {schema.model} has no "{name[:100]}", it has {known}'
            )
        for output in output_filter:
            if output not in signature.outputs:
                raise ClientError(
                    f'outputs: signature {name} has no "{output[:100]}", '
                    f"it has {', '.join(signature.outputs)}"
                )
        if schema.dense_order(name) is not None:
            name = DENSE
        described = schema.described.get(name, {})
        if name == DENSE and DENSE_INPUT in described:
            spec = TensorSpec(schema.signatures[DENSE].inputs[DENSE_INPUT].dtype, (None,))
            columns = tuple(TableColumn(c.name, spec, c) for c in described[DENSE_INPUT])
            return cls(DENSE, columns, DENSE_INPUT, tuple(output_filter))
        order = schema.column_order(name) or tuple(signature.inputs)
        return cls(
            name,
            tuple(
                TableColumn(n, signature.inputs[n], next(iter(described.get(n, ())), None))
                for n in order
            ),
            None,
            tuple(output_filter),
        )

    def holds_for(self, schema: Schema) -> bool:
        """Tell whether rows that were read so mean the same to another version of the model."""
        # The signature that is run may be the short form of another, and need not be there.
        if self.signature_name not in schema.signatures:
            return False
        other = TableLayout.of(schema, self.signature_name)
        return (self.signature_name, self.matrix) == (other.signature_name, other.matrix) and [
            column.form for column in self.columns
        ] == [column.form for column in other.columns]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def is_ordered(self) -> bool:
        """Whether the columns have an order that the caller can know: the trained table's."""
        return len(self.columns) == 1 or all(c.column is not None for c in self.columns)

    def call(self, arrays: Mapping[str, Array]) -> Call:
        """Return the call for an array of each column, all of equal length."""
        if self.matrix is None:
            return Call(self.signature_name, arrays, self.output_filter)
        columns = [arrays[column.name] for column in self.columns]
        return self.matrix_call(np.stack(columns, axis=1))

    def matrix_call(self, matrix: Array) -> Call:
        """Return the call for all columns side by side, `[rows, columns]` in the layout's order."""
        if self.matrix is not None:
            return Call(self.signature_name, {self.matrix: matrix}, self.output_filter)
        return self.call({column.name: matrix[:, i] for i, column in enumerate(self.columns)})

    @property
    def matrix_dtype(self) -> np.dtype[np.generic] | None:
        """The dtype of the matrix that takes all columns, None if there is none."""
        return None if self.matrix is None else DTYPES.get(self.columns[0].spec.dtype)

    def check_header(self, names: Sequence[str], place: str) -> None:
        """Refuse a table that has not exactly the layout's columns, in whatever order.

        Raises:
            ClientError: it names the first column that is unknown, missing or there twice.
        """
        wanted = set(self.names)
        seen: set[str] = set()
        for name in names:
            if name not in wanted:
                raise ClientError(
                    f'{place}unknown column "{name[:100]}"; '
                    f"the columns are {', '.join(sorted(wanted))}"
                )
            if name in seen:
                raise ClientError(f'{place}column "{name}" is there twice')
            seen.add(name)
        missing = sorted(wanted - seen)
        if missing:
            raise ClientError(f'{place}column "{missing[0]}" is missing')
