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


def found(
    values: list[Any] | pl.Series, separator: str = ",", cell_format: CellFormat | None = None
) -> tuple[CellParser, list[Any]]:
    series = values if isinstance(values, pl.Series) else pl.Series("x", values, dtype=pl.String)
    series = series.alias("x")
    parser = detect(series, cell_format or CellFormat(), separator, lambda row: f"line {row + 2}")
    return parser, parser.parse(series).to_list()


def refused(
    values: list[Any] | pl.Series, separator: str = ",", cell_format: CellFormat | None = None
) -> str:
    with pytest.raises(DataError) as caught:
        found(values, separator, cell_format)
    return str(caught.value)


@pytest.mark.parametrize(
    "mark", ["#N/A", r"\N", "<NA>", "#DIV/0!", "-", "--", ".", "?", "nil", "(null)", "1.#QNAN"]
)
def test_a_mark_of_a_missing_value_leaves_a_column_of_numbers_numeric(mark: str) -> None:
    parser, cells = found([" 1 ", "2.5\t", f" {mark}"])
    assert (parser.kind, cells) == ("numeric", [1.0, 2.5, None])


@pytest.mark.parametrize("mark", ["-999 (unknown)", "k. A."])
def test_a_mark_of_ones_own_is_missing_if_an_option_says_so(mark: str) -> None:
    values = ["1", "2", mark]
    assert f"--missing {mark!r}" in refused(values)
    parser, cells = found(values, cell_format=CellFormat(missing=(mark,)))
    assert (parser.kind, cells) == ("numeric", [1.0, 2.0, None])


@pytest.mark.parametrize(
    ("values", "way_out"),
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
def test_a_column_that_is_nearly_of_a_kind_is_refused_with_the_way_out(
    values: list[str], way_out: str
) -> None:
    message = refused(values)
    wrong = next(i for i, v in enumerate(values) if f"got {v!r}" in message)
    assert message.startswith(f"line {wrong + 2}, column 'x': expected a ")
    assert way_out in message


def test_a_value_that_contradicts_the_first_rows_is_refused_with_its_line(tmp_path: Path) -> None:
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
def test_a_decimal_comma_is_read_where_commas_do_not_separate(separator: str) -> None:
    parser, cells = found(["1,5", "-20", "0,25e2", ""], separator)
    assert (parser.kind, cells) == ("numeric", [1.5, -20.0, 25.0, None])


def test_a_comma_that_may_separate_thousands_needs_an_option() -> None:
    values = ["1,234", "20,500", "999"]
    assert "--decimal ," in refused(values, ";")
    assert found(values, ",", CellFormat(decimal=","))[1] == [1.234, 20.5, 999.0]
    assert "--missing '1.5'" in refused(["1,5", "2,5", "1.5"], ";", CellFormat(decimal=","))


def test_a_zero_before_a_comma_separates_no_thousands() -> None:
    assert found(["0,802", "-1,581", "12,004"], ";")[1] == [0.802, -1.581, 12.004]


def test_leading_zeros_make_a_column_of_numbers_a_code_or_need_an_option() -> None:
    message = refused(["10115", "01067", "80331"])
    assert message.startswith("line 3, column 'x': got '01067', and a number would lose")
    assert "--columns 'x'=categorical" in message
    assert "--columns 'x'=numeric" in message
    assert found(["0", "0.5", "-0.25", "0e3"])[0].kind == "numeric"


def test_numbers_with_a_unit_are_refused_and_names_with_a_number_are_categories() -> None:
    message = refused([f"{height} cm" for height in range(150, 190)])
    assert "expected a number, got '150 cm'" in message
    assert "write numbers without units" in message
    assert found(["2door", "4door", "5door"] * 20)[0].kind == "categorical"
    assert found([f"{n}{'ABCDEF'[n % 6]}" for n in range(1, 40)])[0].kind == "categorical"


def test_names_that_hold_few_numbers_are_categories() -> None:
    assert found(["A1", "7", "B 2", "1001.0", " A1 "])[1] == ["A1", "7", "B 2", "1001", "A1"]
    assert found(pl.Series(["10", "20"], dtype=pl.Categorical))[0].kind == "categorical"


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
def test_a_date_is_days_since_1970(text: str, days: float) -> None:
    parser, cells = found([text, " ", text])
    assert parser.kind == "date"
    assert cells == [days, None, days]


@pytest.mark.parametrize(
    "text", ["2024-02-30", "2024-13-01", "2024-03-01 24:00", "2024-03-01 1", "2024-03-01T٠٥:٠٠"]
)
def test_impossible_dates_are_not_dates(text: str) -> None:
    assert DateParser().parse(pl.Series([text])).to_list() == [None]


@pytest.mark.parametrize(
    ("values", "form"),
    [(["03/01/2024", "13/01/2024"], "day/month/year"), (["03/01/2024", "3/13/2024"], "month")],
)
def test_slashes_are_read_once_a_day_beyond_12_shows_the_order(
    values: list[str], form: str
) -> None:
    parser, cells = found(values)
    assert isinstance(parser, DateParser)
    assert parser.form.startswith(form)
    assert cells == [19725.0, 19735.0] if form == "day/month/year" else [19783.0, 19795.0]


def test_an_ambiguous_date_needs_an_option() -> None:
    values = ["03/01/2024", "04/05/2024"]
    assert "--date-format '%d/%m/%Y' or --date-format '%m/%d/%Y'" in refused(values)
    assert found(values, cell_format=CellFormat(date_format="%d/%m/%Y"))[1][0] == 19725.0
    assert found(values, cell_format=CellFormat(date_format="%m/%d/%Y"))[1][0] == 19783.0
    compact = CellFormat(date_format="%d-%b-%Y %H:%M")
    assert found(["01-Mar-2024 12:30"], cell_format=compact)[1] == [19783 + 12.5 / 24]


@pytest.mark.parametrize(
    "text", ["05 Jan 2024", "5-JAN-24", "January 5, 2024", "Fri, 05 Jan 2024", "01/05/24"]
)
def test_dates_of_other_forms_need_an_option(text: str) -> None:
    message = refused([text, text])
    assert f"line 2, column 'x': got {text!r}, which may be a date" in message
    assert "--date-format" in message


def test_a_date_format_reads_the_names_of_months_and_dates_without_separators() -> None:
    for text, form in (("05 Jan 2024", "%d %b %Y"), ("20240105", "%Y%m%d")):
        series = pl.Series("x", [text])
        parser = parser_for_kind("date", series, CellFormat(date_format=form), ",")
        assert parser.parse(series).to_list() == [19727.0]


def test_dates_written_as_numbers_are_unclear() -> None:
    message = refused(["20240105", "20231231"])
    assert "--columns 'x'=date with --date-format '%Y%m%d'" in message
    assert "--columns 'x'=numeric" in message
    assert found(["20240105", "20231399"])[0].kind == "numeric"


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_typed_dates_are_the_same_days_as_their_texts(unit: Any, zone: str | None) -> None:
    moment = datetime(2024, 3, 1, 12, 30, 15, 250_000)
    typed = pl.Series("x", [moment, None]).cast(pl.Datetime(unit))
    if zone is not None:
        typed = typed.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    assert found(typed)[1] == [NOON, None] == found(["2024-03-01 12:30:15.250", ""])[1]
    assert found(pl.Series("x", [date(2024, 3, 1)]))[1] == [19783.0]


def test_other_types_are_refused_by_name() -> None:
    message = refused(pl.Series("x", [[1], [2]]))
    assert message.startswith("column 'x': expected numbers, text, booleans or dates, got the type")
    assert "--leave-out 'x'" in message


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a"]), pl.Binary])
def test_a_column_whose_type_is_not_of_the_chosen_kind_is_refused(dtype: Any) -> None:
    values = pl.Series("x", ["a"]).cast(dtype)
    with pytest.raises(DataError, match=r"^column 'x': expected a number, got the type "):
        parser_for_kind("numeric", values, CellFormat(), "")


def needs_64_bits(values: list[Any] | pl.Series) -> bool:
    parser = found(values)[0]
    assert isinstance(parser, NumericParser)
    return parser.double


def test_numbers_that_32_bits_do_not_resolve_get_64() -> None:
    random = np.random.default_rng(0)

    def texts(mean: float, deviation: float, digits: int) -> list[str]:
        return [f"{v:.{digits}f}" for v in random.normal(mean, deviation, 500)]

    assert needs_64_bits(texts(1.7e12, 8000, 0))  # milliseconds
    assert needs_64_bits(texts(1e6, 0.02, 4))
    assert needs_64_bits(texts(40.75, 0.03, 6))  # a latitude
    assert needs_64_bits(["1e100", "2e100"])
    assert not needs_64_bits(texts(1.7e9, 1e7, 0))  # seconds, over years
    assert not needs_64_bits(texts(1013, 4, 1))
    assert not needs_64_bits(texts(0, 1, 9))
    assert not needs_64_bits(["16000000", "16000001"])  # float32 has each of them
    assert not needs_64_bits(["0.1"] * 5)
    assert not needs_64_bits(pl.Series(random.normal(1e6, 0.02, 500), dtype=pl.Float32))


@pytest.mark.parametrize("dtype", [pl.String, pl.Int64])
def test_integers_that_64_bits_do_not_resolve_are_refused(dtype: Any) -> None:
    close = pl.Series([2**60 + i for i in range(100)])
    message = refused(close.cast(dtype))
    assert message.startswith(f"column 'x' has integers like {2**60} that differ only in digits")
    assert "--leave-out 'x'" in message
    apart = pl.Series([2**60 + i * 2**50 + 1 for i in range(100)])
    assert needs_64_bits(apart.cast(dtype)) is False  # 32 bits resolve them


def test_a_mark_of_a_missing_value_does_not_hide_integers_that_float64_does_not_resolve() -> None:
    values = [*(str(2**60 + i) for i in range(100)), "-1"]
    message = refused(values, cell_format=CellFormat(missing=("-1",)))
    assert message.startswith(f"column 'x' has integers like {2**60} that differ only in digits")


def warnings_of(name: str, values: Any) -> tuple[str, ...]:
    frame = pl.DataFrame({name: values, "y": [i % 2 for i in range(len(values))]})
    source = Source("rows", [FrameFile("rows", frame)])
    return choose_columns(source, Choice("y")).warnings


@pytest.mark.parametrize("name", ["id", "customer_id", "ID", "uuid", "customerId", "index"])
def test_a_column_of_numbers_with_the_name_of_an_identifier_is_warned_of(name: str) -> None:
    (warning,) = warnings_of(name, [3.5, 1.0] * 20)
    assert warning == (
        f"column {name!r} is named like an identifier; --leave-out {name!r} leaves it out"
    )


def test_numbers_that_count_the_rows_are_warned_of() -> None:
    (warning,) = warnings_of("n", np.random.default_rng(0).permutation(500) + 1000)
    assert warning.startswith("column 'n' numbers the rows, like an identifier; --leave-out 'n'")
    assert warnings_of("paid", [1.0, 2.0] * 50) == ()
    assert warnings_of("year", [1990 + i % 30 for i in range(100)]) == ()


def test_columns_are_listed_with_their_kinds_and_reasons() -> None:
    frame = pl.DataFrame({"a": ["1", "2"], "b": [True, False], "c": [1, 2], "y": ["u", "v"]})
    source = Source("rows", [FrameFile("rows", frame)])
    choice = Choice("y", kinds={"a": "categorical"}, leave_out=("c",))
    chosen = choose_columns(source, choice)
    used = [(column.name, column.kind, column.reason) for column in chosen.used]
    assert used == [("a", "categorical", "--columns"), ("b", "boolean", "detected")]
    assert [(column.name, column.reason) for column in chosen.left_out] == [("c", "--leave-out")]
