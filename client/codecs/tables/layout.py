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
from client.serving.columns.base import MISSING, word_of
from client.serving.schema import DEFAULT_SIGNATURE, DENSE, DENSE_INPUT, Schema, TensorSpec
from client.serving.tensors import DTYPES, Array

# A model server that batches may reject a call with more rows than it is configured for.
ROWS_PER_CALL = 16_384

# Returns the position in the table of the row with an index: "line 17".
RowPlace = Callable[[int], str]


@dataclass(frozen=True)
class TableColumn:
    """A column that a table must have.

    Attributes:
        name: its name.
        spec: dtype and shape of the values of all rows; the first dimension is the rows.
        column: the model's description of it, if there is one.
    """

    name: str
    spec: TensorSpec
    column: Column | None

    @property
    def form(self) -> tuple[object, ...]:
        """Everything that determines how values are read."""
        column = self.column
        about = None
        if column is not None:
            about = (column.kind, column.json_types, column.mode, column.marks, column.form)
        return self.name, self.spec, self.takes_missing, about

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

    def read_values(self, values: Sequence[object], place: RowPlace) -> Array:
        """Turn JSON values, one per row, into an array.

        Raises:
            ClientError: a value has the wrong type.
        """

        def at(index: tuple[int, ...]) -> str:
            row = f"{place(index[0])}, " if index else ""
            return f'{row}column "{self.name}"' + "".join(f"[{i}]" for i in index[1:])

        return to_array(values, self.spec, at, () if self.column is None else (self.column,))

    def check_finite(self, array: Array, place: RowPlace) -> None:
        """Reject infinities, and NaN if the model takes no missing values.

        Raises:
            ClientError: the array holds such a number.
        """
        if self.column is None or array.dtype.kind != "f":
            return
        wrong = np.isinf(array) if self.takes_missing else ~np.isfinite(array)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            why = f"; {NEVER_MISSING}" if np.isnan(array[row]) else ""
            raise ClientError(
                f'{place(row)}, column "{self.name}": expected a number, got {array[row]}{why}'
            )


@dataclass(frozen=True)
class Header:
    """The columns that a table has.

    Attributes:
        count: the number of columns.
        places: index of each of the layout's columns; -1 if the table lacks it.
        kept: name and index of each column copied to the response.
        ignored: names of unused columns.
    """

    count: int
    places: tuple[int, ...]
    kept: tuple[tuple[str, int], ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableLayout:
    """The columns that a table must have, and the call that they make.

    Attributes:
        signature_name: the signature to run.
        columns: the table's columns, in the order of a row without names.
        matrix: the input that takes all columns side by side; None if each is an input.
        outputs: the outputs to return, sorted by name.
        output_filter: the requested outputs as given; empty for all.
        label_name: the training data's label column, which is ignored.
    """

    signature_name: str
    columns: tuple[TableColumn, ...]
    matrix: str | None
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    output_filter: tuple[str, ...] = ()
    label_name: str = ""

    @classmethod
    def of(
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
        described = schema.described.get(name, {})
        if name == DENSE and DENSE_INPUT in described:
            spec = TensorSpec(schema.signatures[DENSE].inputs[DENSE_INPUT].dtype, (None,))
            columns = tuple(TableColumn(c.name, spec, c) for c in described[DENSE_INPUT])
            return cls(DENSE, columns, DENSE_INPUT, outputs, tuple(output_filter), label)
        order = schema.column_order(name) or tuple(signature.inputs)
        columns = tuple(
            TableColumn(n, signature.inputs[n], next(iter(described.get(n, ())), None))
            for n in order
        )
        return cls(name, columns, None, outputs, tuple(output_filter), label)

    def holds_for(self, schema: Schema) -> bool:
        """Return whether another version reads rows in the same way and has the same outputs."""
        # `dense` may have replaced the signature; the new version may lack it.
        if self.signature_name not in schema.signatures:
            return False
        other = TableLayout.of(schema, self.signature_name)
        wanted = self.output_filter or other.outputs
        return (
            (self.signature_name, self.matrix) == (other.signature_name, other.matrix)
            and [column.form for column in self.columns] == [c.form for c in other.columns]
            and self.outputs == {n: spec for n, spec in other.outputs.items() if n in wanted}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The column names."""
        return tuple(column.name for column in self.columns)

    @property
    def is_ordered(self) -> bool:
        """Whether the column order is known to callers: that of the training table."""
        return len(self.columns) == 1 or all(c.column is not None for c in self.columns)

    @property
    def is_plain(self) -> bool:
        """Whether text of digits is always a number, neither a date nor a missing mark."""
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

    def no_outputs(self) -> dict[str, Array]:
        """Return outputs with zero rows."""
        return {
            name: np.zeros((0, *(n or 0 for n in (spec.shape or ())[1:])), DTYPES.get(spec.dtype))
            for name, spec in self.outputs.items()
        }

    def header(self, names: Sequence[str], options: TableOptions, place: str = "") -> Header:
        """Find the layout's columns in a table, which may have them in any order.

        The training data's label column is ignored.

        Raises:
            ClientError: a column is unknown, missing or duplicate.
        """
        header = self.some_columns(names, options, place)
        missing = [n for n, i in zip(self.names, header.places, strict=True) if i < 0]
        if missing:
            more = f", the first of {len(missing)}," if len(missing) > 1 else ""
            raise ClientError(f'{place}column "{missing[0]}"{more} is missing')
        return header

    def some_columns(self, names: Sequence[str], options: TableOptions, place: str = "") -> Header:
        """Find the layout's columns in a table that may lack some."""
        index: dict[str, int] = {}
        for number, name in enumerate(map(word_of, names)):
            if name in index:
                raise ClientError(f'{place}duplicate column "{name[:100]}"')
            index[name] = number
        wanted = [name for name in (options.id_column, *options.keep) if name]
        for name in wanted:
            if name not in index:
                parameter = "id" if name == options.id_column else "keep"
                raise ClientError(f'{place}{parameter}: the table has no column "{name[:100]}"')
        kept = dict.fromkeys([*wanted, *(index if options.keep_all else ())])
        clash = next((name for name in kept if name in self.outputs), None)
        if clash is not None:
            raise ClientError(
                f'{place}column "{clash}" cannot be passed through: an output has the same name; '
                "choose columns with keep=, or outputs with outputs="
            )
        if options.errors_in_rows and (ERROR in kept or ERROR in self.outputs):
            what = "column" if ERROR in kept else "output"
            raise ClientError(
                f'{place}{what} "{ERROR}" cannot be returned with on_error=row, which adds one '
                "of its name; choose columns with keep=, or outputs with outputs="
            )
        known = set(self.names)
        unused = [name for name in index if name not in known and name not in kept]
        for name in unused:
            if name != self.label_name:
                raise ClientError(
                    f'{place}unknown column "{name[:100]}"; the columns are {", ".join(self.names)}'
                )
        places = tuple(index.get(name, -1) for name in self.names)
        return Header(len(names), places, tuple((n, index[n]) for n in kept), tuple(unused))
