"""The choice of a source's columns and of their parsers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from training.data.reading import RecordBatch, Source
from training.errors import DataError
from training.features.categorical import CategoricalParser
from training.features.cells import CellFormat, CellParser, Kind
from training.features.detect import detect, identifier_warning, parser_for_kind
from training.features.numeric import NumericParser


@dataclass(frozen=True)
class Choice:
    """Which columns of a source to use, and their roles.

    Attributes:
        label: the column to predict.
        positive: the label that is class 1; None infers it.
        kinds: kinds of columns by name; the others are detected.
        leave_out: columns not to use.
        weight: the column of row weights, if there is one.
        cell_format: how cells write missing values, numbers and dates.
        split_column: the column that says which rows are trained on and which are held out.
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
    def non_features(self) -> tuple[str, ...]:
        """The columns that are read but are not features."""
        roles = (self.label, self.weight, self.split_column, self.split_time)
        return tuple(name for name in roles if name is not None)


@dataclass(frozen=True)
class ColumnUse:
    """A column that is used or left out, with the reason."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The columns selected from a source.

    Attributes:
        parsers: the parser of each column that is read; features first, then label, weight and
            split columns.
        used: the features.
        left_out: columns that are neither features nor label nor weight.
        warnings: messages about suspicious columns.
    """

    parsers: Mapping[str, CellParser]
    used: tuple[ColumnUse, ...]
    left_out: tuple[ColumnUse, ...]
    warnings: tuple[str, ...]

    def with_float64(self, names: Sequence[str]) -> Selection:
        """Return a copy that stores the named numeric columns in 64 bits."""
        parsers = dict(self.parsers)
        for name in names:
            parser = parsers[name]
            assert isinstance(parser, NumericParser)
            parsers[name] = replace(parser, double=True)
        return replace(self, parsers=parsers)


def choose_columns(source: Source, choice: Choice) -> Selection:
    """Select the columns and choose their parsers.

    Raises:
        DataError: a named column does not exist, a kind is unclear, or no feature remains.
    """
    _check_names(source, choice)
    excluded = (*choice.non_features, *choice.leave_out)
    artefacts = {
        c: why for c, why in source.left_out.items() if c not in (*excluded, *choice.kinds)
    }
    names = [name for name in source.columns if name not in (*excluded, *artefacts)]
    if not names:
        raise DataError(f"{source.name} has no column left to predict {choice.label!r} with")
    head = source.head()
    parsers: dict[str, CellParser] = {}
    used, warnings = [], []
    for name in names:
        values, kind = head.frame[name], choice.kinds.get(name)
        if kind is None:
            parser = detect(values, choice.cell_format, source.separator, head.location)
        else:
            parser = parser_for_kind(kind, values, choice.cell_format, source.separator)
        parsers[name] = parser
        used.append(ColumnUse(name, parser.kind, "--columns" if kind else "detected"))
        warnings.append(identifier_warning(parser, values))
    parsers[choice.label] = CategoricalParser(choice.cell_format)
    if choice.weight is not None:
        parsers[choice.weight] = parser_for_kind(
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
    return Selection(parsers, tuple(used), tuple(left_out), tuple(filter(None, warnings)))


def _time_parser(choice: Choice, head: RecordBatch, separator: str) -> CellParser:
    name = str(choice.split_time)
    values, kind = head.frame[name], choice.kinds.get(name)
    if kind is None:
        parser = detect(values, choice.cell_format, separator, head.location)
    else:
        parser = parser_for_kind(kind, values, choice.cell_format, separator)
    if parser.kind not in ("date", "numeric"):
        raise DataError(
            f"--split-time: expected dates or numbers in column {name!r}, got {parser.kind} values"
        )
    return parser


def _check_names(source: Source, choice: Choice) -> None:
    names_by_option = {
        "--label": [choice.label],
        "--weight": [choice.weight] if choice.weight is not None else [],
        "--split-column": [choice.split_column] if choice.split_column is not None else [],
        "--split-time": [choice.split_time] if choice.split_time is not None else [],
        "--columns": list(choice.kinds),
        "--leave-out": list(choice.leave_out),
    }
    for option, names in names_by_option.items():
        for name in names:
            if name not in source.columns:
                listing = ", ".join(source.columns[:30])
                raise DataError(f"{option}: {source.name} has no column {name!r}; it has {listing}")
    left_out = source.left_out
    for name in (*choice.non_features, *choice.kinds):
        if choice.non_features.count(name) > 1:
            raise DataError(
                f"column {name!r} has more than one role; label, weight and split must be "
                "different columns"
            )
        if name in choice.leave_out and name in choice.non_features:
            raise DataError(f"--leave-out: column {name!r} is used by another option")
        for file in source.files if name in left_out else ():  # some files may lack the index
            if name not in file.columns:
                raise DataError(f"{file.name} has no column {name!r}")
