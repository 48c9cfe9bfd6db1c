"""Columns of dates and times: text for callers, days since 1970-01-01T00:00Z for the model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any, ClassVar

from client.serving.columns.base import MISSING, Json, trim_cell
from client.serving.columns.numeric import NumericColumn

EXPECTED = "a date such as 2024-03-01 or 2024-03-01T12:30:00Z"
DAY_MICROSECONDS = 86_400_000_000

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME = (
    r"(?:[T ](?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
    r"\s?(?P<z>[Zz]|[-+](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?"
)
FORMS = {
    name: re.compile(form + _TIME, re.ASCII)
    for name, form in {
        "year-month-day": r"(?P<Y>\d{4})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})",
        "day.month.year": r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<Y>\d{4})",
        "day/month/year": r"(?P<d>\d{1,2})/(?P<m>\d{1,2})/(?P<Y>\d{4})",
        "month/day/year": r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<Y>\d{4})",
    }.items()
}
# Without a known form, only a day after the 12th shows which number is the day.
_AMBIGUOUS = re.compile(r"(0?[1-9]|1[0-2])/(0?[1-9]|1[0-2])/\d{4}.*", re.ASCII)


@dataclass(frozen=True)
class DateColumn(NumericColumn):
    """A column of dates or times."""

    kind: ClassVar[str] = "date"
    expected: ClassVar[str] = EXPECTED

    def parse_word(self, word: str, dtype: int) -> Any:
        """Return the days of a cell."""
        if word in MISSING:
            return None
        days = parse_days(word, self.form)
        if days is None:
            raise ValueError(EXPECTED)
        return days

    def encode(self, value: Any, dtype: int) -> Any:
        """Return the days of a text such as 2024-03-01; leave a number of days unchanged."""
        if type(value) is str:
            days = parse_days(trim_cell(value), self.form)
            return value if days is None else days
        return super().encode(value, dtype)

    def format_number(self, value: float) -> str:
        """Format days as ISO 8601."""
        return format_days(value)

    def describe(self, schema: Json) -> Json:
        """Return the JSON schema of a date with its range in training."""
        first, last = format_days(self.minimum), format_days(self.maximum)
        mean = format_days(round(self.mean)) if math.isfinite(self.mean) else "unknown"
        description = (
            f"date or time in ISO 8601, or days since 1970-01-01; "
            f"in training from {first} to {last}, mean {mean}"
        )
        return {"anyOf": [{"type": "string"}, schema], "description": description}

    def example(self, class_index: int, dtype: int) -> Any:
        """Return the mean date of a class."""
        mean = self.class_means[class_index]
        return format_days(round(mean)) if math.isfinite(mean) else format_days(0)


def parse_days(text: str, form: str = "") -> float | None:
    """Return the days since 1970-01-01T00:00Z of a date or time; None if the text is neither.

    Times without a zone are in UTC.

    Args:
        text: a date or time, without surrounding spaces.
        form: a key of `FORMS`, or a strftime format that is tried first; empty if unknown.
    """
    if form and form not in FORMS:
        moment = _parse_format(text, form)
        if moment is not None:
            return (moment - EPOCH) / timedelta(days=1)
    iso = FORMS["year-month-day"]
    if form:
        # Another order of day and month would be another date.
        match = FORMS.get(form, iso).fullmatch(text) or iso.fullmatch(text)
    elif _AMBIGUOUS.fullmatch(text):
        return None
    else:
        matches = (pattern.fullmatch(text) for pattern in FORMS.values())
        plausible = (m for m in matches if m is not None and int(m["m"]) <= 12)
        match = next(plausible, None)
    if match is None:
        return None
    hours, minutes, seconds = (int(match[name] or 0) for name in "HMS")
    try:
        day = date(int(match["Y"]), int(match["m"]), int(match["d"])).toordinal()
    except ValueError:
        return None
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    minutes += (day - EPOCH.toordinal()) * 24 * 60 + hours * 60 - _offset(match["z"])
    fraction = (match["f"] or "").ljust(6, "0")[:6]
    microseconds = (minutes * 60 + seconds) * 1_000_000 + int(fraction)
    return microseconds / DAY_MICROSECONDS


def format_days(days: float) -> str:
    """Return days since 1970-01-01T00:00Z as ISO 8601; outside years 1 to 9999, as a number."""
    try:
        moment = EPOCH + timedelta(microseconds=round(days * DAY_MICROSECONDS))
    except (OverflowError, ValueError):
        return str(days)
    if moment.time() == EPOCH.time():
        return moment.date().isoformat()
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _offset(zone: str | None) -> int:
    """Return the minutes by which a zone is ahead of UTC."""
    if zone is None or zone in "Zz":
        return 0
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    return -minutes if zone[0] == "-" else minutes


def _parse_format(text: str, form: str) -> datetime | None:
    try:
        moment = datetime.strptime(text, form)
    except ValueError:
        return None
    if "%y" in form and moment.year == 1969:  # training reads 69 as 2069
        moment = moment.replace(year=2069)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
