"""Table layouts: how a table's columns become the inputs of a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from client.codecs import Call
from client.codecs.json.arrays import to_array
from client.codecs.tables.options import ERROR, TableOptions
from client.errors import ClientError
from client.serving.columns import NEVER_MISSING, Column
from client.serving.columns.base import MISSING, trim_cell
from client.serving.schema import DEFAULT_SIGNATURE, DENSE, DENSE_INPUT, Schema, TensorSpec
from client.serving.tensors import DTYPES, Array

# A model server that batches may reject calls with more rows than its largest batch.
ROWS_PER_CALL = 16_384

# Returns the position in the table of the row with an index: "line 17".
RowLocator = Callable[[int], str]


@dataclass(frozen=True)
class TableColumn:
    """A column that a table must have.

    Attributes:
        name: its name.
        spec: dtype and shape of the values of all rows; the first dimension is the row.
        column: the model's description of it, if there is one.
    """

    name: str
    spec: TensorSpec
    column: Column | None

    @property
    def form(self) -> tuple[object, ...]:
        """All properties that determine how values are read."""
        column = self.column
        description = None
        if column is not None:
            description = (column.kind, column.json_types, column.mode, column.marks, column.form)
        return self.name, self.spec, self.takes_missing, description

    @property
    def takes_missing(self) -> bool:
        """Whether the model takes missing values in this column."""
        return self.column is not None and self.column.takes_missing(self.spec.dtype)

    @property
    def is_date(self) -> bool:
        """Whether values are dates."""
        return self.column is not None and self.column.kind == "date"

    @property
    def missing_marks(self) -> frozenset[str]:
        """Marks of missing values."""
        return MISSING if self.column is None else self.column.missing_marks

    def read_values(self, values: Sequence[object], locate: RowLocator) -> Array:
        """Convert JSON values, one per row, to an array.

        Raises:
            ClientError: a value has the wrong type.
        """

        def locate_value(index: tuple[int, ...]) -> str:
            row = f"{locate(index[0])}, " if index else ""
            return f'{row}column "{self.name}"' + "".join(f"[{i}]" for i in index[1:])

        return to_array(
            values, self.spec, locate_value, () if self.column is None else (self.column,)
        )

    def check_finite(self, array: Array, locate: RowLocator) -> None:
        """Reject infinities, and NaN if the model takes no missing values.

        Raises:
            ClientError: the array holds such a number.
        """
        if self.column is None or array.dtype.kind != "f":
            return
        is_invalid = np.isinf(array) if self.takes_missing else ~np.isfinite(array)
        if is_invalid.any():
            row = int(np.flatnonzero(is_invalid)[0])
            reason = f"; {NEVER_MISSING}" if np.isnan(array[row]) else ""
            raise ClientError(
                f'{locate(row)}, column "{self.name}": expected a number, got {array[row]}{reason}'
            )


@dataclass(frozen=True)
class Header:
    """The columns that a table has.

    Attributes:
        count: the number of columns.
        indexes: index of each of the layout's columns; -1 if the table lacks it.
        copied_columns: name and index of each column copied to the response.
        ignored_columns: names of unused columns.
    """

    count: int
    indexes: tuple[int, ...]
    copied_columns: tuple[tuple[str, int], ...] = ()
    ignored_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableLayout:
    """The columns that a table must have, and the call that predicts them.

    Attributes:
        signature_name: the signature to run.
        columns: the table's columns, in the order of a row without names.
        matrix: the input that takes all columns side by side; None if each is an input.
        outputs: the outputs to return, sorted by name.
        output_filter: the requested outputs in the request's order; empty for all.
        label_name: the training data's label column, which is ignored.
    """

    signature_name: str
    columns: tuple[TableColumn, ...]
    matrix: str | None
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    output_filter: tuple[str, ...] = ()
    label_name: str = ""

    @classmethod
    def from_schema(
        cls, schema: Schema, signature_name: str = "", output_filter: Sequence[str] = ()
    ) -> TableLayout:
        """Return the layout of tables for a signature.

        If `dense` computes the same from one matrix, it is run instead.

        Raises:
            ClientError: the model has no such signature or output.
        """
        name = signature_name or DEFAULT_SIGNATURE
        signature = schema.signatures.get(name)
        if signature is None:
            known = ", ".join(sorted(schema.signatures))
            raise ClientError(
                f'signature_name: model {schema.model} has no "{name[:100]}"; it has {known}'
            )
        for output in output_filter:
            if output not in signature.outputs:
                raise ClientError(
                    f'outputs: signature {name} has no "{output[:100]}"; '
                    f"it has {', '.join(signature.outputs)}"
                )
        outputs = {n: signature.outputs[n] for n in sorted(output_filter or signature.outputs)}
        label = schema.description.label_name if schema.description else ""
        if schema.dense_order(name) is not None:
            name = DENSE
        columns_by_input = schema.input_columns.get(name, {})
        if name == DENSE and DENSE_INPUT in columns_by_input:
            spec = TensorSpec(schema.signatures[DENSE].inputs[DENSE_INPUT].dtype, (None,))
            columns = tuple(TableColumn(c.name, spec, c) for c in columns_by_input[DENSE_INPUT])
            return cls(DENSE, columns, DENSE_INPUT, outputs, tuple(output_filter), label)
        order = schema.column_order(name) or tuple(signature.inputs)
        columns = tuple(
            TableColumn(n, signature.inputs[n], next(iter(columns_by_input.get(n, ())), None))
            for n in order
        )
        return cls(name, columns, None, outputs, tuple(output_filter), label)

    def is_compatible_with(self, schema: Schema) -> bool:
        """Return whether another version reads rows the same way and has the same outputs."""
        # `dense` may have replaced the signature; the new version may lack it.
        if self.signature_name not in schema.signatures:
            return False
        other = TableLayout.from_schema(schema, self.signature_name)
        names = self.output_filter or other.outputs
        return (
            (self.signature_name, self.matrix) == (other.signature_name, other.matrix)
            and [column.form for column in self.columns] == [c.form for c in other.columns]
            and self.outputs == {n: spec for n, spec in other.outputs.items() if n in names}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The column names."""
        return tuple(column.name for column in self.columns)

    @property
    def is_ordered(self) -> bool:
        """Whether callers know the column order, which is that of the training table."""
        return len(self.columns) == 1 or all(c.column is not None for c in self.columns)

    @property
    def is_plain(self) -> bool:
        """Whether digits are always a number, neither a date nor a missing mark."""
        return not any(c.is_date or c.missing_marks != MISSING for c in self.columns)

    @property
    def matrix_dtype(self) -> np.dtype[np.generic] | None:
        """The dtype of the matrix that takes all columns; None without one."""
        return None if self.matrix is None else DTYPES.get(self.columns[0].spec.dtype)

    def call(self, arrays: Mapping[str, Array]) -> Call:
        """Return the call for one array per column, all of equal length."""
        if self.matrix is None:
            return Call(self.signature_name, arrays, self.output_filter)
        columns = [arrays[column.name] for column in self.columns]
        return self.matrix_call(np.stack(columns, axis=1))

    def matrix_call(self, matrix: Array) -> Call:
        """Return the call for all columns side by side, `[rows, columns]` in the layout's order."""
        if self.matrix is not None:
            return Call(self.signature_name, {self.matrix: matrix}, self.output_filter)
        return self.call({column.name: matrix[:, i] for i, column in enumerate(self.columns)})

    def empty_outputs(self) -> dict[str, Array]:
        """Return outputs with zero rows."""
        return {
            name: np.zeros((0, *(n or 0 for n in (spec.shape or ())[1:])), DTYPES.get(spec.dtype))
            for name, spec in self.outputs.items()
        }

    def find_columns(self, names: Sequence[str], options: TableOptions, prefix: str = "") -> Header:
        """Find the layout's columns in a table, which may have them in any order.

        The training data's label column is ignored.

        Raises:
            ClientError: a column is unknown, missing or duplicate.
        """
        header = self.find_some_columns(names, options, prefix)
        missing = [n for n, i in zip(self.names, header.indexes, strict=True) if i < 0]
        if missing:
            and_more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ClientError(f'{prefix}column "{missing[0]}" is missing{and_more}')
        return header

    def find_some_columns(
        self, names: Sequence[str], options: TableOptions, prefix: str = ""
    ) -> Header:
        """Find the layout's columns in a table that may lack some."""
        index_by_name: dict[str, int] = {}
        for index, name in enumerate(map(trim_cell, names)):
            if name in index_by_name:
                raise ClientError(f'{prefix}duplicate column "{name[:100]}"')
            index_by_name[name] = index
        requested = [name for name in (options.id_column, *options.keep) if name]
        for name in requested:
            if name not in index_by_name:
                parameter = "id" if name == options.id_column else "keep"
                raise ClientError(f'{prefix}{parameter}: the table has no column "{name[:100]}"')
        copied = dict.fromkeys([*requested, *(index_by_name if options.keep_all else ())])
        clash = next((name for name in copied if name in self.outputs), None)
        if clash is not None:
            raise ClientError(
                f'{prefix}column "{clash}" cannot be passed through: an output has the same name; '
                "choose columns with keep=, or outputs with outputs="
            )
        if options.errors_in_rows and (ERROR in copied or ERROR in self.outputs):
            kind = "column" if ERROR in copied else "output"
            raise ClientError(
                f'{prefix}{kind} "{ERROR}" cannot be returned with on_error=row, which adds one '
                "of its name; choose columns with keep=, or outputs with outputs="
            )
        known = set(self.names)
        unused = [name for name in index_by_name if name not in known and name not in copied]
        for name in unused:
            if name != self.label_name:
                raise ClientError(
                    f'{prefix}unknown column "{name[:100]}"; '
                    f"the columns are {', '.join(self.names)}"
                )
        indexes = tuple(index_by_name.get(name, -1) for name in self.names)
        copied_columns = tuple((name, index_by_name[name]) for name in copied)
        return Header(len(names), indexes, copied_columns, tuple(unused))
