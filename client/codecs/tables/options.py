"""What a caller may ask of a table beside its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs

from client.errors import ClientError


@dataclass(frozen=True)
class TableOptions:
    """How a table is answered.

    Attributes:
        signature_name: the signature to run, empty for the default.
        outputs: names of the outputs that are wanted; empty for all.
        id_column: a column that is passed through to the answer, first.
        keep: further columns that are passed through.
        keep_all: whether all columns are.
        errors_in_rows: whether a bad row gets an error in its place, instead of refusing the table.
        csv_guard: whether text in CSV that a spreadsheet would run as a formula gets a `'` before.
    """

    signature_name: str = ""
    outputs: tuple[str, ...] = ()
    id_column: str = ""
    keep: tuple[str, ...] = ()
    keep_all: bool = False
    errors_in_rows: bool = False
    csv_guard: bool = True

    @classmethod
    def from_query(cls, query: str) -> TableOptions:
        """Read the query of a URL.

        Raises:
            ClientError: a parameter has a value that it cannot have.
        """
        given = parse_qs(query)

        def names(parameter: str) -> tuple[str, ...]:
            listed = (name for value in given.get(parameter, []) for name in value.split(","))
            return tuple(dict.fromkeys(name for name in listed if name))

        def choice(parameter: str, default: str, other: str) -> bool:
            value = given.get(parameter, [default])[0]
            if value not in (default, other):
                raise ClientError(f'{parameter}: expected {default} or {other}, got "{value[:40]}"')
            return value == other

        keep = names("keep")
        return cls(
            signature_name=given.get("signature_name", [""])[0],
            outputs=names("outputs"),
            id_column=given.get("id", [""])[0],
            keep=() if keep == ("all",) else keep,
            keep_all=keep == ("all",),
            errors_in_rows=choice("on_error", "table", "row"),
            csv_guard=not choice("csv_guard", "on", "off"),
        )

    @property
    def passes_columns(self) -> bool:
        """Whether columns of the table are passed through."""
        return bool(self.id_column or self.keep or self.keep_all)
