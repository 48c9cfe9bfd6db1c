"""Options of a table request."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs

from client.errors import ClientError

# Name of the column that holds the errors of rows without a prediction.
ERROR = "error"


@dataclass(frozen=True)
class TableOptions:
    """Options of a table request.

    Attributes:
        signature_name: the signature to run; empty for the default.
        outputs: names of the outputs to return; empty for all.
        id_column: a column to copy to the response, as its first.
        keep: further columns to copy to the response.
        keep_all: whether to copy all columns.
        errors_in_rows: whether an invalid row's error is returned in that row, instead of failing
            the table.
        csv_guard: whether CSV text that a spreadsheet would evaluate as a formula is prefixed
            with `'`.
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
            ClientError: a parameter has an invalid value.
        """
        parameters = parse_qs(query)

        def names(parameter: str) -> tuple[str, ...]:
            items = (name for value in parameters.get(parameter, []) for name in value.split(","))
            return tuple(dict.fromkeys(name for name in items if name))

        def choice(parameter: str, default: str, other: str) -> bool:
            value = parameters.get(parameter, [default])[0]
            if value not in (default, other):
                raise ClientError(f'{parameter}: expected {default} or {other}, got "{value[:40]}"')
            return value == other

        keep = names("keep")
        return cls(
            signature_name=parameters.get("signature_name", [""])[0],
            outputs=names("outputs"),
            id_column=parameters.get("id", [""])[0],
            keep=() if keep == ("all",) else keep,
            keep_all=keep == ("all",),
            errors_in_rows=choice("on_error", "table", "row"),
            csv_guard=not choice("csv_guard", "on", "off"),
        )

    @property
    def passes_columns(self) -> bool:
        """Whether columns of the table are copied to the response."""
        return bool(self.id_column or self.keep or self.keep_all)
