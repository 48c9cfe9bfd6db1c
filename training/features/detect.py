"""Detection of column kinds from the first rows, for files with and without types."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from training.errors import DataError
from training.features.boolean import BooleanParser
from training.features.categorical import CategoricalParser
from training.features.cells import CellFormat, CellParser, Kind, is_text, trim
from training.features.date import COMPACT_DATE, FORMS, OTHER_FORM, DateParser
from training.features.numeric import (
    DECORATED_NUMBER,
    LEADING_ZERO,
    NUMBER_WITH_UNIT,
    NumericParser,
    resolves,
)

# Parsers in the order of detection; every text is a category.
PARSERS: dict[Kind, Any] = {
    "numeric": NumericParser,
    "boolean": BooleanParser,
    "date": DateParser,
    "categorical": CategoricalParser,
}
MAX_INTEGER = 2**53  # float64 represents every integer up to this one
# Numbers with a unit have few units and many values; names like "2door" have few values.
MAX_UNITS, MIN_UNIT_VALUES = 3, 20
ID_NAME = re.compile(r"(?i:(^|.*[_\s.-])(id|uuid|guid)|index|row_?id|unnamed: 0)|.*[a-z0-9]I[dD]")
MIN_COUNTER_ROWS = 20


def detect(
    values: pl.Series, cell_format: CellFormat, separator: str, location: Callable[[int], str]
) -> CellParser:
    """Choose how to read a column by its first rows.

    Raises:
        DataError: the values have no supported kind, or it is unclear which.
    """
    if not is_text(values.dtype):
        for parser in PARSERS.values():
            if parser.accepts(values.dtype):
                return _with_sufficient_precision(parser(cell_format), values)
        raise DataError(
            f"column {values.name!r}: expected numbers, text, booleans or dates, got the type "
            f"{values.dtype}; --leave-out {values.name!r} leaves the column out"
        )
    text = trim(values, cell_format)
    present = text.drop_nulls()
    if present.is_empty():
        return NumericParser(cell_format)
    for parser in PARSERS.values():
        if parser is CategoricalParser:
            _refuse_unclear(values, text, cell_format, location)
            _refuse_other_dates(text, location)
            _refuse_units(text, location)
        candidate: CellParser | None = parser.detect(present, cell_format, separator)
        if candidate is not None:
            if candidate.kind == "numeric":
                _refuse_leading_zeros(text, location)
                _refuse_compact_dates(text, location)
            return _with_sufficient_precision(candidate, values)
    raise AssertionError  # every text is a category


def parser_for_kind(
    kind: Kind, values: pl.Series, cell_format: CellFormat, separator: str
) -> CellParser:
    """Return the parser of a given kind for a column.

    Raises:
        DataError: the column's type cannot be read as this kind, float64 cannot resolve its
            numbers, or the order of day and month in dates is unclear.
    """
    parser = PARSERS[kind]
    if not is_text(values.dtype):
        try:
            return _with_sufficient_precision(parser(cell_format), values)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"column {values.name!r}: expected {parser.expected}, got the type {values.dtype}"
            ) from error
    present = trim(values, cell_format).drop_nulls()
    return _with_sufficient_precision(
        parser.detect(present, cell_format, separator) or parser(cell_format), values
    )


def _refuse_unclear(
    values: pl.Series, text: pl.Series, cell_format: CellFormat, location: Callable[[int], str]
) -> None:
    """Reject a column in which most but not all values are numbers or dates."""
    numeric = NumericParser(cell_format, "," if cell_format.decimal == "," else ".")
    is_number_like = numeric.parse(text).is_not_null() | text.str.contains(DECORATED_NUMBER)
    date = max(
        (DateParser(cell_format, form) for form in _forms(cell_format)),
        key=lambda parser: parser.parse(text).count(),
    )
    count = text.count()
    for parser, matches in ((numeric, is_number_like), (date, date.parse(text).is_not_null())):
        if 2 * (matches & text.is_not_null()).sum() < count:
            continue
        row = int((parser.parse(text).is_null() & text.is_not_null()).arg_max() or 0)
        raise DataError(
            f"{location(row)}, column {values.name!r}: expected {parser.expected} like most of the "
            f"values, got {text[row]!r}; {parser.advice(values.name, text[row])}"
        )


def _refuse_leading_zeros(text: pl.Series, location: Callable[[int], str]) -> None:
    """Reject numbers with leading zeros, which are usually codes."""
    zeros = text.str.contains(LEADING_ZERO).fill_null(False)
    if zeros.any():
        row = int(zeros.arg_max() or 0)
        raise DataError(
            f"{location(row)}, column {text.name!r}: got {text[row]!r}, and a number would lose "
            f"its leading zero; --columns {text.name!r}=categorical keeps it as a code, "
            f"--columns {text.name!r}=numeric reads it as a number"
        )


def _refuse_compact_dates(text: pl.Series, location: Callable[[int], str]) -> None:
    """Reject numbers that all look like 20240131: dates, whose differences are not days."""
    if text.drop_nulls().str.contains(COMPACT_DATE).all():
        row = int(text.is_not_null().arg_max() or 0)
        raise DataError(
            f"{location(row)}, column {text.name!r}: all values are like {text[row]!r} and may "
            f"be dates; --columns {text.name!r}=date with --date-format '%Y%m%d' reads "
            f"dates, --columns {text.name!r}=numeric reads numbers"
        )


def _refuse_other_dates(text: pl.Series, location: Callable[[int], str]) -> None:
    """Reject a column in which most values are dates of a form that is not detected."""
    matches = text.str.contains(OTHER_FORM).fill_null(False)
    if 2 * matches.sum() >= text.count():
        row = int(matches.arg_max() or 0)
        raise DataError(
            f"{location(row)}, column {text.name!r}: got {text[row]!r}, which may be a date; "
            f"--date-format with its form, such as '%d %b %Y', reads it, "
            f"--columns {text.name!r}=categorical treats it as a category"
        )


def _refuse_units(text: pl.Series, location: Callable[[int], str]) -> None:
    """Reject a column in which most values are numbers with a unit."""
    units = text.str.extract(NUMBER_WITH_UNIT)
    if (
        2 * units.count() >= text.count()
        and units.drop_nulls().n_unique() <= MAX_UNITS
        and text.drop_nulls().n_unique() > MIN_UNIT_VALUES
    ):
        row = int(units.is_not_null().arg_max() or 0)
        raise DataError(
            f"{location(row)}, column {text.name!r}: expected a number, got {text[row]!r}; write "
            f"numbers without units, --columns {text.name!r}=categorical if the column holds names"
        )


def _forms(cell_format: CellFormat) -> tuple[str, ...]:
    return (*((cell_format.date_format,) if cell_format.date_format else ()), *FORMS)


def _with_sufficient_precision(parser: CellParser, values: pl.Series) -> CellParser:
    """Return the parser, for float64 if float32 does not resolve the numbers.

    Raises:
        DataError: float64 does not resolve them either.
    """
    if not isinstance(parser, NumericParser) or values.dtype == pl.Float32:
        return parser
    numbers = parser.parse(values).drop_nulls().drop_nans()
    array = numbers.to_numpy()
    array = array[np.isfinite(array)]
    if not len(array):
        return parser
    _refuse_lost_digits(values, array, parser)
    with np.errstate(over="ignore"):
        exact = bool((array.astype(np.float32) == array).all())
    if exact or array.min() == array.max():
        return parser
    with np.errstate(over="ignore", invalid="ignore"):
        is_resolved = resolves(np.float32, float(array.mean()), float(array.std()))
    return parser if is_resolved else replace(parser, double=True)


def _refuse_lost_digits(values: pl.Series, array: Any, parser: CellParser) -> None:
    """Reject integers that differ only in digits beyond float64's precision."""
    if np.abs(array).max() < MAX_INTEGER:
        return
    exact = values.drop_nulls()
    if is_text(values.dtype):
        exact = parser.trim(values).cast(pl.Int128, strict=False).drop_nulls()
    if exact.is_empty() or not exact.dtype.is_integer():
        return
    if exact.n_unique() == len(np.unique(array)):
        return
    first, *others = exact.to_list()
    deviation = float(np.std([0.0, *(float(other - first) for other in others)]))
    if not resolves(np.float64, float(array.mean()), deviation):
        raise DataError(
            f"column {values.name!r} has integers like {exact[0]} that differ only in digits "
            f"beyond float64's precision; --leave-out {values.name!r} leaves it out, "
            f"--columns {values.name!r}=categorical treats them as categories"
        )


def identifier_warning(parser: CellParser, values: pl.Series) -> str | None:
    """Return a warning if a column of numbers looks like an identifier or a counter."""
    if parser.kind != "numeric":
        return None
    name = values.name
    reason = "is named like an identifier" if ID_NAME.fullmatch(name) else ""
    numbers = parser.parse(values).drop_nulls().to_numpy()
    if len(numbers) >= MIN_COUNTER_ROWS and np.isfinite(numbers).all():
        is_whole = bool((numbers == np.rint(numbers)).all())
        is_dense = numbers.max() - numbers.min() < 2 * len(numbers)
        if is_whole and is_dense and len(np.unique(numbers)) == len(numbers):
            reason = "numbers the rows, like an identifier"
    return f"column {name!r} {reason}; --leave-out {name!r} leaves it out" if reason else None
