"""Detection and reading of columns: kinds, dates, decimal commas, errors."""

from __future__ import annotations

from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from training.data.choose import Choice, choose_columns
from training.data.reading import FrameFile, Source, open_source
from training.errors import DataError
from training.features.cells import CellFormat, CellParser
from training.features.date import DateParser
from training.features.detect import detect, parser_for_kind
from training.features.numeric import NumericParser


def parse_cells(
    values: list[Any] | pl.Series, separator: str = ",", cell_format: CellFormat | None = None
) -> tuple[CellParser, list[Any]]:
    series = values if isinstance(values, pl.Series) else pl.Series("x", values, dtype=pl.String)
    series = series.alias("x")
    parser = detect(series, cell_format or CellFormat(), separator, lambda row: f"line {row + 2}")
    return parser, parser.parse(series).to_list()


def parse_error(
    values: list[Any] | pl.Series, separator: str = ",", cell_format: CellFormat | None = None
) -> str:
    with pytest.raises(DataError) as caught:
        parse_cells(values, separator, cell_format)
    return str(caught.value)


@pytest.mark.parametrize(
    "mark", ["#N/A", r"\N", "<NA>", "#DIV/0!", "-", "--", ".", "?", "nil", "(null)", "1.#QNAN"]
)
def test_missing_mark_keeps_column_numeric(mark: str) -> None:
    parser, cells = parse_cells([" 1 ", "2.5\t", f" {mark}"])
    assert (parser.kind, cells) == ("numeric", [1.0, 2.5, None])


@pytest.mark.parametrize("mark", ["-999 (unknown)", "k. A."])
def test_custom_missing_mark_requires_option(mark: str) -> None:
    values = ["1", "2", mark]
    assert f"--missing {mark!r}" in parse_error(values)
    parser, cells = parse_cells(values, cell_format=CellFormat(missing=(mark,)))
    assert (parser.kind, cells) == ("numeric", [1.0, 2.0, None])


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (["1", "2", "many"], "--missing 'many'"),
        (["1", "2", "many"], "--columns 'x'=categorical"),
        (["1", "20", "1,234"], "--decimal ,"),
        (["1", "20", "$5"], "write numbers without thousands separators, currency"),
        (["5 %", "10 %", "12 %"], "write numbers without thousands separators, currency"),
        (["1.234,56", "7,5", "1.000,00"], "--decimal ,"),
        (["12", "3+", "4"], "--columns 'x'=categorical"),
        (["2024-01-05", "2024-01-06", "soon"], "--missing 'soon'"),
    ],
)
def test_almost_numeric_or_date_column_is_rejected_with_hint(values: list[str], hint: str) -> None:
    message = parse_error(values)
    row = next(i for i, v in enumerate(values) if f"got {v!r}" in message)
    assert message.startswith(f"line {row + 2}, column 'x': expected a ")
    assert hint in message


def test_value_that_contradicts_first_rows_is_rejected_with_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{i},{'ab'[i % 2]}" for i in range(700_000)] + ["1;5,a"]
    path.write_text("\n".join(["x,y", *lines]))
    source = open_source(str(path))
    parsers = choose_columns(source, Choice("y")).parsers
    with pytest.raises(DataError) as caught:
        list(source.batches(parsers))
    assert str(caught.value).startswith(f"{path} line 700002, column 'x': expected a number, got")
    assert "--missing '1;5'" in str(caught.value)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_comma_is_read_unless_comma_is_separator(separator: str) -> None:
    parser, cells = parse_cells(["1,5", "-20", "0,25e2", ""], separator)
    assert (parser.kind, cells) == ("numeric", [1.5, -20.0, 25.0, None])


def test_ambiguous_comma_requires_option() -> None:
    values = ["1,234", "20,500", "999"]
    assert "--decimal ," in parse_error(values, ";")
    assert parse_cells(values, ",", CellFormat(decimal=","))[1] == [1.234, 20.5, 999.0]
    assert "--missing '1.5'" in parse_error(["1,5", "2,5", "1.5"], ";", CellFormat(decimal=","))


def test_comma_after_zero_is_decimal() -> None:
    assert parse_cells(["0,802", "-1,581", "12,004"], ";")[1] == [0.802, -1.581, 12.004]


def test_leading_zeros_require_option() -> None:
    message = parse_error(["10115", "01067", "80331"])
    assert message.startswith("line 3, column 'x': got '01067', and a number would lose")
    assert "--columns 'x'=categorical" in message
    assert "--columns 'x'=numeric" in message
    assert parse_cells(["0", "0.5", "-0.25", "0e3"])[0].kind == "numeric"


def test_numbers_with_unit_are_rejected_and_names_with_number_are_categories() -> None:
    message = parse_error([f"{height} cm" for height in range(150, 190)])
    assert "expected a number, got '150 cm'" in message
    assert "write numbers without units" in message
    assert parse_cells(["2door", "4door", "5door"] * 20)[0].kind == "categorical"
    assert parse_cells([f"{n}{'ABCDEF'[n % 6]}" for n in range(1, 40)])[0].kind == "categorical"


def test_names_mixed_with_few_numbers_are_categories() -> None:
    assert parse_cells(["A1", "7", "B 2", "1001.0", " A1 "])[1] == ["A1", "7", "B 2", "1001", "A1"]
    assert parse_cells(pl.Series(["10", "20"], dtype=pl.Categorical))[0].kind == "categorical"


NOON = datetime(2024, 3, 1, 12, 30, 15, 250_000, tzinfo=timezone.utc).timestamp() / 86400


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("2024-03-01", 19783.0),
        ("2024/3/1", 19783.0),
        ("01.03.2024", 19783.0),
        ("1969-12-31", -1.0),
        ("2024-03-01 12:30", 19783 + 12.5 / 24),
        ("2024-03-01T12:30:15.250", NOON),
        ("2024-03-01T12:30:15.250000Z", NOON),
        ("2024-03-01 14:30:15.25+02:00", NOON),
        ("2024-03-01T07:00:15.25-0530", NOON),
        ("01.03.2024 12:30:15,25", NOON),
    ],
)
def test_date_is_parsed_as_days_since_1970(text: str, days: float) -> None:
    parser, cells = parse_cells([text, " ", text])
    assert parser.kind == "date"
    assert cells == [days, None, days]


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-30",
        "2024-13-01",
        "2024-03-01 24:00",
        "2024-03-01 1",
        "2024-03-01T٠٥:٠٠",
        "2024-03-01T00:00+24:00",
        "2024-03-01T00:00-01:60",
        "2024-03-01T00:00+99",
    ],
)
def test_impossible_date_is_missing(text: str) -> None:
    assert DateParser().parse(pl.Series([text])).to_list() == [None]


@pytest.mark.parametrize(
    ("values", "form"),
    [(["03/01/2024", "13/01/2024"], "day/month/year"), (["03/01/2024", "3/13/2024"], "month")],
)
def test_day_beyond_12_determines_order_of_date_with_slashes(values: list[str], form: str) -> None:
    parser, cells = parse_cells(values)
    assert isinstance(parser, DateParser)
    assert parser.form.startswith(form)
    assert cells == [19725.0, 19735.0] if form == "day/month/year" else [19783.0, 19795.0]


def test_ambiguous_date_requires_option() -> None:
    values = ["03/01/2024", "04/05/2024"]
    assert "--date-format '%d/%m/%Y' or --date-format '%m/%d/%Y'" in parse_error(values)
    assert parse_cells(values, cell_format=CellFormat(date_format="%d/%m/%Y"))[1][0] == 19725.0
    assert parse_cells(values, cell_format=CellFormat(date_format="%m/%d/%Y"))[1][0] == 19783.0
    cell_format = CellFormat(date_format="%d-%b-%Y %H:%M")
    assert parse_cells(["01-Mar-2024 12:30"], cell_format=cell_format)[1] == [19783 + 12.5 / 24]


@pytest.mark.parametrize(
    "text", ["05 Jan 2024", "5-JAN-24", "January 5, 2024", "Fri, 05 Jan 2024", "01/05/24"]
)
def test_other_date_formats_require_option(text: str) -> None:
    message = parse_error([text, text])
    assert f"line 2, column 'x': got {text!r}, which may be a date" in message
    assert "--date-format" in message


def test_date_format_supports_month_names_and_compact_dates() -> None:
    for text, form in (("05 Jan 2024", "%d %b %Y"), ("20240105", "%Y%m%d")):
        series = pl.Series("x", [text])
        parser = parser_for_kind("date", series, CellFormat(date_format=form), ",")
        assert parser.parse(series).to_list() == [19727.0]


def test_dates_written_as_numbers_require_option() -> None:
    message = parse_error(["20240105", "20231231"])
    assert "--columns 'x'=date with --date-format '%Y%m%d'" in message
    assert "--columns 'x'=numeric" in message
    assert parse_cells(["20240105", "20231399"])[0].kind == "numeric"


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_typed_dates_equal_text_dates(unit: Any, zone: str | None) -> None:
    moment = datetime(2024, 3, 1, 12, 30, 15, 250_000)
    typed = pl.Series("x", [moment, None]).cast(pl.Datetime(unit))
    if zone is not None:
        typed = typed.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    assert parse_cells(typed)[1] == [NOON, None] == parse_cells(["2024-03-01 12:30:15.250", ""])[1]
    assert parse_cells(pl.Series("x", [date(2024, 3, 1)]))[1] == [19783.0]


def test_unsupported_type_is_rejected() -> None:
    message = parse_error(pl.Series("x", [[1], [2]]))
    assert message.startswith("column 'x': expected numbers, text, booleans or dates, got the type")
    assert "--leave-out 'x'" in message


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a"]), pl.Binary])
def test_type_that_does_not_match_chosen_kind_is_rejected(dtype: Any) -> None:
    values = pl.Series("x", ["a"]).cast(dtype)
    with pytest.raises(DataError, match=r"^column 'x': expected a number, got the type "):
        parser_for_kind("numeric", values, CellFormat(), "")


def needs_64_bits(values: list[Any] | pl.Series) -> bool:
    parser = parse_cells(values)[0]
    assert isinstance(parser, NumericParser)
    return parser.double


def test_numbers_beyond_float32_resolution_need_float64() -> None:
    random = np.random.default_rng(0)

    def random_texts(mean: float, deviation: float, digits: int) -> list[str]:
        return [f"{v:.{digits}f}" for v in random.normal(mean, deviation, 500)]

    assert needs_64_bits(random_texts(1.7e12, 8000, 0))  # milliseconds
    assert needs_64_bits(random_texts(1e6, 0.02, 4))
    assert needs_64_bits(random_texts(40.75, 0.03, 6))  # a latitude
    assert needs_64_bits(["1e100", "2e100"])
    assert not needs_64_bits(random_texts(1.7e9, 1e7, 0))  # seconds, over years
    assert not needs_64_bits(random_texts(1013, 4, 1))
    assert not needs_64_bits(random_texts(0, 1, 9))
    assert not needs_64_bits(["16000000", "16000001"])  # exact in float32
    assert not needs_64_bits(["0.1"] * 5)
    assert not needs_64_bits(pl.Series(random.normal(1e6, 0.02, 500), dtype=pl.Float32))


@pytest.mark.parametrize("dtype", [pl.String, pl.Int64])
def test_integers_beyond_float64_resolution_are_rejected(dtype: Any) -> None:
    close_integers = pl.Series([2**60 + i for i in range(100)])
    message = parse_error(close_integers.cast(dtype))
    assert message.startswith(f"column 'x' has integers like {2**60} that differ only in digits")
    assert "--leave-out 'x'" in message
    distant_integers = pl.Series([2**60 + i * 2**50 + 1 for i in range(100)])
    assert needs_64_bits(distant_integers.cast(dtype)) is False  # float32 resolves them


def test_missing_mark_does_not_hide_integers_beyond_float64_resolution() -> None:
    values = [*(str(2**60 + i) for i in range(100)), "-1"]
    message = parse_error(values, cell_format=CellFormat(missing=("-1",)))
    assert message.startswith(f"column 'x' has integers like {2**60} that differ only in digits")


def column_warnings(name: str, values: Any) -> tuple[str, ...]:
    frame = pl.DataFrame({name: values, "y": [i % 2 for i in range(len(values))]})
    source = Source("rows", [FrameFile("rows", frame)])
    return choose_columns(source, Choice("y")).warnings


@pytest.mark.parametrize("name", ["id", "customer_id", "ID", "uuid", "customerId", "index"])
def test_warns_about_numeric_column_named_like_identifier(name: str) -> None:
    (warning,) = column_warnings(name, [3.5, 1.0] * 20)
    assert warning == (
        f"column {name!r} is named like an identifier; --leave-out {name!r} leaves it out"
    )


def test_warns_about_column_that_numbers_rows() -> None:
    (warning,) = column_warnings("n", np.random.default_rng(0).permutation(500) + 1000)
    assert warning.startswith("column 'n' numbers the rows, like an identifier; --leave-out 'n'")
    assert column_warnings("paid", [1.0, 2.0] * 50) == ()
    assert column_warnings("year", [1990 + i % 30 for i in range(100)]) == ()


def test_columns_are_listed_with_kinds_and_reasons() -> None:
    frame = pl.DataFrame({"a": ["1", "2"], "b": [True, False], "c": [1, 2], "y": ["u", "v"]})
    source = Source("rows", [FrameFile("rows", frame)])
    choice = Choice("y", kinds={"a": "categorical"}, leave_out=("c",))
    chosen = choose_columns(source, choice)
    used = [(column.name, column.kind, column.reason) for column in chosen.used]
    assert used == [("a", "categorical", "--columns"), ("b", "boolean", "detected")]
    assert [(column.name, column.reason) for column in chosen.left_out] == [("c", "--leave-out")]
