"""The choice of a source's columns, and how each is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from training.data.reading import Part, Source
from training.errors import DataError
from training.features.categorical import CategoricalParser
from training.features.cells import CellFormat, CellParser, Kind
from training.features.detect import detect, identifier_warning, of_kind
from training.features.numeric import NumericParser


@dataclass(frozen=True)
class Choice:
    """Which columns of a source to use, and their roles.

    Attributes:
        label: the column to predict.
        positive: the label that is class 1; None chooses.
        kinds: kinds of columns, instead of detecting them.
        leave_out: columns not to use.
        weight: the column with the rows' weights, if there is one.
        cell_format: the form of missing values, numbers and dates in cells.
        split_column: the column that names the rows to train on and to hold out.
        split_time: the column by which the latest rows are held out.
    """

    label: str
    positive: str | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    weight: str | None = None
    cell_format: CellFormat = field(default_factory=CellFormat)
    split_column: str | None = None
    split_time: str | None = None

    @property
    def others(self) -> tuple[str, ...]:
        """The columns that are read but are not features."""
        roles = (self.label, self.weight, self.split_column, self.split_time)
        return tuple(name for name in roles if name is not None)


@dataclass(frozen=True)
class ColumnUse:
    """A column that is used or left out: its name, its kind, and the reason."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Chosen:
    """The columns of a source.

    Attributes:
        parsers: the parser of each column that is read; features first, then label, weight and
            split columns.
        used: the columns to predict with.
        left_out: the other columns.
        warnings: messages about suspicious columns.
    """

    parsers: Mapping[str, CellParser]
    used: tuple[ColumnUse, ...]
    left_out: tuple[ColumnUse, ...]
    warnings: tuple[str, ...]

    def widened(self, names: Sequence[str]) -> Chosen:
        """Return the same choice with 64 bits for some columns of numbers."""
        parsers = dict(self.parsers)
        for name in names:
            parser = parsers[name]
            assert isinstance(parser, NumericParser)
            parsers[name] = replace(parser, double=True)
        return replace(self, parsers=parsers)


def choose_columns(source: Source, choice: Choice) -> Chosen:
    """Detect the kinds of the columns that are used.

    Raises:
        DataError: a named column does not exist, a kind is unclear, or no feature is left.
    """
    _check_names(source, choice)
    others = (*choice.others, *choice.leave_out)
    artefacts = {c: why for c, why in source.left_out.items() if c not in (*others, *choice.kinds)}
    names = [name for name in source.columns if name not in (*others, *artefacts)]
    if not names:
        raise DataError(f"{source.name} has no column left to predict {choice.label!r} with")
    head = source.head()
    parsers: dict[str, CellParser] = {}
    used, warnings = [], []
    for name in names:
        values, kind = head.frame[name], choice.kinds.get(name)
        if kind is None:
            parser = detect(values, choice.cell_format, source.separator, head.place)
        else:
            parser = of_kind(kind, values, choice.cell_format, source.separator)
        parsers[name] = parser
        used.append(ColumnUse(name, parser.kind, "--columns" if kind else "detected"))
        warnings.append(identifier_warning(parser, values))
    parsers[choice.label] = CategoricalParser(choice.cell_format)
    if choice.weight is not None:
        parsers[choice.weight] = of_kind(
            "numeric", head.frame[choice.weight], choice.cell_format, source.separator
        )
    if choice.split_column is not None:
        parsers[choice.split_column] = CategoricalParser(choice.cell_format)
    if choice.split_time is not None:
        parsers[choice.split_time] = _time_parser(choice, head, source.separator)
    left_out = [
        ColumnUse(name, str(head.frame[name].dtype).lower(), "--leave-out")
        for name in dict.fromkeys(choice.leave_out)
    ]
    left_out += [ColumnUse(name, "index", why) for name, why in artefacts.items()]
    splits = {"--split-column": choice.split_column, "--split-time": choice.split_time}
    left_out += [
        ColumnUse(name, parsers[name].kind, option)
        for option, name in splits.items()
        if name is not None
    ]
    found = tuple(warning for warning in warnings if warning is not None)
    return Chosen(parsers, tuple(used), tuple(left_out), found)


def _time_parser(choice: Choice, head: Part, separator: str) -> CellParser:
    name = str(choice.split_time)
    values, kind = head.frame[name], choice.kinds.get(name)
    if kind is None:
        parser = detect(values, choice.cell_format, separator, head.place)
    else:
        parser = of_kind(kind, values, choice.cell_format, separator)
    if parser.kind not in ("date", "numeric"):
        raise DataError(
            f"--split-time: expected dates or numbers in column {name!r}, got {parser.kind} values"
        )
    return parser


def _check_names(source: Source, choice: Choice) -> None:
    named = {
        "--label": [choice.label],
        "--weight": [choice.weight] if choice.weight is not None else [],
        "--split-column": [choice.split_column] if choice.split_column is not None else [],
        "--split-time": [choice.split_time] if choice.split_time is not None else [],
        "--columns": list(choice.kinds),
        "--leave-out": list(choice.leave_out),
    }
    for option, names in named.items():
        for name in names:
            if name not in source.columns:
                listing = ", ".join(source.columns[:30])
                raise DataError(f"{option}: {source.name} has no column {name!r}, it has {listing}")
    left_out = source.left_out
    for name in (*choice.others, *choice.kinds):
        if choice.others.count(name) > 1:
            raise DataError(
                f"column {name!r} has more than one role; label, weight and split need different "
                "columns"
            )
        if name in choice.leave_out and name in choice.others:
            raise DataError(f"--leave-out: column {name!r} is used by another option")
        for file in source.files if name in left_out else ():  # an index may be in some files only
            if name not in file.columns:
                raise DataError(f"{file.name} has no column {name!r}")
