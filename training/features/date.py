"""Dates and times: days since 1970-01-01T00:00Z, standardised like numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import polars as pl
import tensorflow as tf

from training.errors import DataError
from training.features.cells import ISO_DATES, CellFormat, CellParser, Kind, is_text
from training.features.numeric import NumericColumn

DAY_MICROSECONDS = 86_400_000_000
EPOCH = datetime(1970, 1, 1)
TIME = r"(?:[T ](?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
ZONE = r"\s?(?P<z>[Zz]|[-+](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?$"
ISO = r"^(?P<Y>\d{4})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})" + TIME + ZONE
FORMS = {
    ISO_DATES: ISO,
    "day.month.year": r"^(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<Y>\d{4})" + TIME + ZONE,
    "day/month/year": r"^(?P<d>\d{1,2})/(?P<m>\d{1,2})/(?P<Y>\d{4})" + TIME + ZONE,
    "month/day/year": r"^(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<Y>\d{4})" + TIME + ZONE,
}
# Dates that need `--date-format`: with month names, two-digit years, dashes after the day, or
# 12-hour times.
OTHER_FORM = (
    r"(?i)^(?:\d{1,2}[/.-]\d{1,2}[/.-](?:\d{4}|\d{2})\b"
    r"|(?:[a-z]+,?\s)?\d{1,2}(?:st|nd|rd|th)?[\s./-]?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
    r"[a-z]*[\s.,/-]*\d{2,4}\b"
    r"|(?:[a-z]+,?\s)?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\s./-]*\d{1,2}"
    r"(?:st|nd|rd|th)?[\s,./-]+\d{2,4}\b)"
)
COMPACT_DATE = r"^(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$"


@dataclass(frozen=True)
class DateParser(CellParser):
    """Parses dates and times of one form: a key of `FORMS` or a strftime format."""

    form: str = ISO_DATES

    kind: ClassVar[Kind] = "date"
    expected: ClassVar[str] = "a date"

    @property
    def wide(self) -> bool:
        """Whether the column needs 64 bits; days with a time of day do."""
        return True

    @classmethod
    def accepts(cls, dtype: pl.DataType) -> bool:
        """Return whether values of a dtype other than text are of this kind."""
        return dtype == pl.Date or isinstance(dtype, pl.Datetime)

    @classmethod
    def detect(cls, text: pl.Series, cell_format: CellFormat, separator: str) -> CellParser | None:
        """Return a parser if all texts are dates of one form.

        Raises:
            DataError: day and month cannot be distinguished.
        """
        forms = [cell_format.date_format] if cell_format.date_format else []
        parsers = [cls(cell_format, form) for form in (*forms, *FORMS)]
        matching = [parser for parser in parsers if parser.parse(text).null_count() == 0]
        if len(matching) > 1 and matching[0].form not in forms:
            raise DataError(
                f"column {text.name!r}: {text[0]!r} may be day/month or month/day; "
                "--date-format '%d/%m/%Y' or --date-format '%m/%d/%Y' says which"
            )
        return matching[0] if matching else None

    def parse(self, values: pl.Series) -> pl.Series:
        """Return Float64, days since 1970-01-01T00:00Z; times without a zone are in UTC."""
        if values.dtype == pl.Date:
            return values.cast(pl.Int32).cast(pl.Float64)
        if isinstance(values.dtype, pl.Datetime):
            return _days(values.dt.epoch("us"))
        if not is_text(values.dtype):
            raise pl.exceptions.InvalidOperationError(f"{values.dtype} is not a date")
        text = self.trim(values)
        return (
            _parse_form(text, FORMS[self.form])
            if self.form in FORMS
            else _parse_format(text, self.form)
        )

    def column(self, name: str, **statistics: Any) -> Any:
        """Return the column with the given name and statistics, and this form."""
        return self.column_type(name, **statistics, form=self.form)

    def advice(self, name: str, value: object) -> str:
        """Return advice on reading a value that is not a date."""
        return f"--date-format if it is a date of another form, {super().advice(name, value)}"


def _days(microseconds: pl.Series) -> pl.Series:
    return microseconds.cast(pl.Float64) / DAY_MICROSECONDS


def _parse_form(text: pl.Series, pattern: str) -> pl.Series:
    """Return days, null where a text does not match or is not a valid date."""
    groups = text.str.extract_groups("(?-u)" + pattern).struct.unnest()  # ASCII digits only

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Int64, strict=False)

    def pad(name: str, width: int) -> pl.Expr:
        return pl.col(name).str.zfill(width)

    date = pl.concat_str(pad("Y", 4), pad("m", 2), pad("d", 2), separator="-")
    micros = pl.col("f").str.pad_end(9, "0").str.head(6).cast(pl.Int64, strict=False)
    zone = pl.col("z").str.replace(":", "")
    offset = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(
        pl.Int64, strict=False
    ).fill_null(0)
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    fields = groups.select(
        days=date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64),
        hours=number("H").fill_null(0),
        minutes=number("M").fill_null(0),
        seconds=number("S").fill_null(0),
        micros=micros.fill_null(0),
        offset=(offset * sign).fill_null(0),
    )
    seconds = (pl.col("hours") * 60 + pl.col("minutes") - pl.col("offset")) * 60 + pl.col("seconds")
    moment = pl.col("days") * DAY_MICROSECONDS + seconds * 1_000_000 + pl.col("micros")
    valid = (pl.col("hours") < 24) & (pl.col("minutes") < 60) & (pl.col("seconds") < 60)
    microseconds = fields.select(pl.when(valid).then(moment).alias(text.name)).to_series()
    return _days(microseconds)


def _parse_format(text: pl.Series, date_format: str) -> pl.Series:
    """Return days, null where a text does not match; a zone in the format is applied."""
    conversions: list[Callable[[], pl.Series]] = [
        lambda: text.str.to_datetime(date_format, strict=False, time_unit="us"),
        lambda: text.str.to_date(date_format, strict=False).cast(pl.Datetime("us")),
    ]
    for convert in conversions:
        try:
            moments = convert()
        except pl.exceptions.PolarsError:  # such as a format without a time of day
            continue
        if moments.null_count() < len(text) or text.null_count() == len(text):
            return _days(moments.dt.epoch("us"))
    return pl.Series(text.name, [None] * len(text), dtype=pl.Float64)


@dataclass(frozen=True)
class DateColumn(NumericColumn):
    """A column of dates, served as days."""

    kind: ClassVar[Kind] = "date"

    @property
    def dtype(self) -> Any:
        """The type of the signature's input; NaN means missing."""
        return tf.float64

    def json_values(self, cells: pl.Series) -> list[Any]:
        """Return ISO 8601 in UTC, or days if the year is outside 1 to 9999."""
        return [None if d is None else _json_value(d) for d in cells.fill_nan(None).to_list()]


def _json_value(days: float) -> str | float:
    try:
        return (EPOCH + timedelta(microseconds=round(days * DAY_MICROSECONDS))).isoformat() + "Z"
    except OverflowError:
        return days


DateParser.column_type = DateColumn
