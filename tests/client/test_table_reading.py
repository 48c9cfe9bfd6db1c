"""Cells are read alike in every table format, and columns can be passed through."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from client import ClientError
from client.codecs.example import example_request
from client.codecs.json import rows as rows_json
from client.codecs.tables import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    TSV,
    TableLayout,
    TableOptions,
    TableRows,
    is_table,
    json_writers,
    media_type,
    table_reader,
    table_writer,
)
from client.codecs.tfs_rest import predict
from client.inference.input_ranges import count, find
from client.serving.columns.base import MISSING
from client.serving.columns.date import format_days, parse_days
from client.serving.data_frames import from_frame
from client.serving.protos import DataType
from client.serving.schema import Schema, TensorSpec
from client.serving.tensors import STRING
from tests.client import schemas
from tests.client.bodies import arrow as as_arrow
from tests.client.bodies import npy as as_npy

JSON = "application/json"
DOUBLE = DataType.Value("DT_DOUBLE")
DTYPES = {"age": DOUBLE, "plan": STRING, "rooms": schemas.INT64, "garden": schemas.BOOL}
COLUMNS = (
    schemas.column("age", mode=-1),
    schemas.column("since", kind="date", mode=-1),
    schemas.column("plan", "gold", "1001", mode=0),
    schemas.column("rooms", "2", "3", mode=1),
    schemas.column("garden", "false", "true", kind="boolean", mode=1),
)
MIN = -(2**63)


def customers(label_name: str = "churn") -> Schema:
    """Return a model that accepts missing values in columns of every kind."""
    inputs = {c.name: TensorSpec(DTYPES.get(c.name, DOUBLE), (None,)) for c in COLUMNS}
    return schemas.with_label_name(
        schemas.with_description(schemas.schema(**inputs), *COLUMNS), label_name
    )


MODEL = customers()
HEADER = "age,since,plan,rooms,garden\n"


def read_rows(content_type: str, body: bytes | str, options: TableOptions | None = None) -> Any:
    options = options or TableOptions()
    reader = table_reader(content_type, TableLayout.from_schema(MODEL), options)
    data = body.encode() if isinstance(body, str) else body
    return [*reader.feed(data), *reader.finish()], reader


def read_inputs(content_type: str, body: bytes | str) -> dict[str, list[Any]]:
    (rows,), _ = read_rows(content_type, body)
    arrays = {
        name: (a & 1).astype(bool) if a.dtype == np.int8 else a
        for name, a in call_inputs(rows).items()
    }
    return {name: array.tolist() for name, array in arrays.items()}


def call_inputs(rows: TableRows) -> Mapping[str, Any]:
    assert rows.call is not None
    return rows.call.inputs


def error_message(content_type: str, body: bytes | str, options: TableOptions | None = None) -> str:
    with pytest.raises(ClientError) as caught:
        read_rows(content_type, body, options)
    assert caught.value.status == 400
    return caught.value.message


PLAIN = {
    "age": [40.5],
    "since": [19783.0],
    "plan": [b"gold"],
    "rooms": [2],
    "garden": [True],
}


@pytest.mark.parametrize(
    "body",
    [
        HEADER + "40.5,2024-03-01,gold,2,true\n",
        "age, since , plan,rooms ,garden\n 40.5 , 2024-03-01,\tgold , 2 , TRUE \n",
        'age, "since", "plan", rooms, garden\n40.5, "2024-03-01", "gold", 2.0, 1\n',
        'age, since,  "plan",rooms,garden\n40.5,   "2024-03-01",  "gold",2,true\n',
        "sep=;\n" + "age;since;plan;rooms;garden\n40,5;01.03.2024;gold;2;True\n",
        '"sep=;";;;;\n' + "age;since;plan;rooms;garden\n40,5;01.03.2024;gold;2;True\n",
        "age;since;plan;rooms;garden\r\n40,5;2024-03-01T00:00Z;gold;2;True\r\n",
        "age\tsince\tplan\trooms\tgarden\n40.5\t2024/3/1\tgold\t2\tTrue\n",
        "age|since|plan|rooms|garden\n40.5|2024-03-01|gold|2|True\n",
        "churn," + HEADER + "yes,40.5,2024-03-01,gold,2,true\n",
        "\ufeff" + HEADER + "40.5,2024-03-01,gold,2,true\n",
    ],
    ids=[
        "plain",
        "spaces",
        "quotes",
        "more spaces",
        "sep=",
        "padded sep=",
        "semicolon",
        "tab",
        "bar",
        "label",
        "byte order mark",
    ],
)
def test_table_is_read_with_any_separator(body: str) -> None:
    assert read_inputs(CSV, body) == PLAIN


def test_quoted_separators_are_ignored() -> None:
    names = ("Width (cm, outer, max)", "Share, %, net")
    model = schemas.numeric(*names)
    for separator in (";", "\t", ",", "|"):
        out = io.StringIO()
        writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([names, [1, 2.5], [3, 4]])
        reader = table_reader(CSV, TableLayout.from_schema(model), TableOptions())
        (rows,) = [*reader.feed(out.getvalue().encode()), *reader.finish()]
        assert rows.call is not None
        assert rows.call.inputs["features"].tolist() == [[1, 2.5], [3, 4]]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_matrix_of_numbers_may_have_decimal_commas(separator: str) -> None:
    text = "a,b,c\n1.5,2,-3e2\n4,5.25,6\n".replace(",", separator).replace(".", ",")
    reader = table_reader(CSV, TableLayout.from_schema(schemas.numeric()), TableOptions())
    (rows,) = [*reader.feed(text.encode()), *reader.finish()]
    assert rows.call is not None
    assert rows.call.inputs["features"].tolist() == [[2, 1.5, -300], [5.25, 4, 6]]


def test_missing_marks_are_missing_in_every_column() -> None:
    for mark in MISSING - {"NaN", "nan", "-NaN", "-nan"}:
        cell = f'" {mark}"'
        result = read_inputs(CSV, HEADER + f"1,2024-01-01,gold,2,true\n{','.join([cell] * 5)}\n")
        assert np.isnan(result["age"][1]), mark
        assert np.isnan(result["since"][1]), mark
        values = (result["plan"][1], result["rooms"][1], result["garden"][1])
        assert values == (b"", MIN, True), mark


def test_missing_values_are_read_alike_in_arrow_and_ndjson() -> None:
    table = pa.table(
        {
            "age": pa.array([None, float("nan")], pa.float64()),
            "since": pa.array([None, datetime.date(2024, 3, 1)], pa.date32()),
            "plan": [None, " NA "],
            "rooms": pa.array([None, 3], pa.int8()),
            "garden": pa.array([None, False]),
        }
    )
    objects = [
        {"age": None, "since": None, "plan": None, "rooms": None, "garden": None},
        {"age": None, "since": "2024-03-01", "plan": " NA ", "rooms": 3, "garden": False},
    ]
    lines = "\n".join(map(json.dumps, objects))
    for content_type, body in ((ARROW, as_arrow(table)), (NDJSON, lines.encode())):
        result = read_inputs(content_type, body)
        assert np.isnan(result["age"]).tolist() == [True, True]
        np.testing.assert_array_equal(result["since"], [np.nan, 19783])
        assert result["plan"] == [b"", b""]
        assert result["rooms"] == [MIN, 3]
        assert result["garden"] == [True, False]


@pytest.mark.parametrize("content_type", [CSV, NDJSON, ARROW])
def test_missing_values_are_counted_in_every_column(content_type: str) -> None:
    body: bytes | str = HEADER + "1,2024-01-01,gold,2,true\n,,,,\n,,,,\n"
    if content_type != CSV:
        rows = [PLAIN_JSON, dict.fromkeys(PLAIN_JSON), dict.fromkeys(PLAIN_JSON)]
        body = "\n".join(map(json.dumps, rows))
    if content_type == ARROW:
        body = as_arrow(pa.Table.from_pylist(rows))
    (chunk,), _ = read_rows(content_type, body)
    assert count(find(chunk.call, MODEL), "missing") == dict.fromkeys(PLAIN_JSON, 2)
    call = rows_json.read_document({"inputs": {key: [None] for key in PLAIN_JSON}}, MODEL).call
    assert count(find(call, MODEL), "missing") == dict.fromkeys(PLAIN_JSON, 1)
    with pytest.raises(ClientError, match=r"inputs.garden\[0\]: expected true or false, got -1"):
        rows_json.read_document(
            {"inputs": {**{n: [v] for n, v in PLAIN_JSON.items()}, "garden": [-1]}}, MODEL
        )


def test_columns_without_missing_values_in_training_are_required() -> None:
    row = {"age": 1, "since": 1, "plan": "gold", "rooms": 2}
    assert 'line 1: column "garden" (bool) is missing' in error_message(NDJSON, json.dumps(row))


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("1970-01-01", 0.0),
        ("2024-03-01 12:00", 19783.5),
        ("2024-03-01T12:00:00.500+02:00", 19783 + 10 / 24 + 0.5 / 86400),
        ("2024-03-01 18:30:00 -0530", 19784.0),
        ("0001-01-01", -719162.0),
        ("31.12.1969", -1.0),
        ("13/01/1970", 12.0),
        ("01/13/1970", 12.0),
        ("03/01/2024", None),
        ("2024-02-30", None),
        ("2024-03-01T25:00", None),
        ("2024-03-01T00:00+24:00", None),
        ("2024-03-01T00:00-01:60", None),
        ("20240301", None),
        ("yesterday", None),
    ],
)
def test_dates_are_parsed_as_days(text: str, days: float | None) -> None:
    parsed = parse_days(text)
    assert parsed == (None if days is None else pytest.approx(days, abs=1e-9))


@pytest.mark.parametrize(
    ("text", "form", "days"),
    [
        ("03/04/2024", "month/day/year", 19786.0),
        ("03/04/2024 06:00", "day/month/year", 19816.25),
        ("13/04/2024", "month/day/year", None),
        ("20240301", "%Y%m%d", 19783.0),
        ("1 Mar 2024 06:00", "%d %b %Y %H:%M", 19783.25),
        ("31/12/69", "%d/%m/%y", 36524.0),
        ("2024-03-01", "%d/%m/%Y", 19783.0),
        ("25/12/2024", "%m/%d/%Y", None),
    ],
)
def test_dates_are_parsed_in_the_form_of_training(text: str, form: str, days: float | None) -> None:
    assert parse_days(text, form) == days


def test_cells_are_read_as_training_read_them() -> None:
    assert MODEL.description is not None
    columns = (
        replace(c, marks=frozenset({"-999", "unknown"}), form="%d.%m.%y" * (c.name == "since"))
        for c in MODEL.description.columns
    )
    layout = TableLayout.from_schema(schemas.with_description(MODEL, *columns))
    reader = table_reader(CSV, layout, TableOptions())
    body = HEADER + "-999,01.03.24,unknown,2,true\n40.5,unknown,gold,-999,true\n"
    (rows,) = [*reader.feed(body.encode()), *reader.finish()]
    result = {name: values.tolist() for name, values in call_inputs(rows).items()}
    assert result["plan"] == [b"", b"gold"]
    assert result["rooms"] == [2, -(2**63)]
    np.testing.assert_array_equal(result["age"], [np.nan, 40.5])
    np.testing.assert_array_equal(result["since"], [19783.0, np.nan])


@pytest.mark.parametrize("body", [b"a,b\n1,-999\n", b"a;b\n1,5;n,v\n"])
def test_marks_of_digits_or_with_commas_are_missing_in_numeric_tables(body: bytes) -> None:
    model = schemas.numeric("a", "b")
    assert model.description is not None
    columns = (
        replace(column, missing=True, marks=frozenset({"-999", "n,v"}))
        for column in model.description.columns
    )
    reader = table_reader(
        CSV, TableLayout.from_schema(schemas.with_description(model, *columns)), TableOptions()
    )
    (rows,) = [*reader.feed(body), *reader.finish()]
    assert "nan" in str(call_inputs(rows))


def test_days_are_formatted_as_dates() -> None:
    assert format_days(19783) == "2024-03-01"
    assert format_days(19783.5) == "2024-03-01T12:00:00Z"
    assert format_days(1e12) == "1000000000000.0"
    assert format_days(float("nan")) == "nan"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_arrow_timestamps_are_read_as_days(unit: str) -> None:
    moment = datetime.datetime(2024, 3, 1, 6, tzinfo=datetime.timezone.utc)
    for kind in (pa.timestamp(unit), pa.timestamp(unit, "Europe/Zurich")):
        column = pa.array([moment], pa.timestamp(unit, "UTC")).cast(kind)
        table = pa.table({**{k: [v] for k, v in PLAIN_JSON.items()}, "since": column})
        assert read_inputs(ARROW, as_arrow(table))["since"] == [19783.25]
    millis = pa.array([datetime.date(2024, 3, 1)], pa.date64())
    table = pa.table({**{k: [v] for k, v in PLAIN_JSON.items()}, "since": millis})
    assert read_inputs(ARROW, as_arrow(table)) == PLAIN


PLAIN_JSON: dict[str, Any] = {
    "age": 40.5,
    "since": "2024-03-01",
    "plan": "gold",
    "rooms": 2,
    "garden": True,
}


def test_different_spellings_of_an_integer_are_one_category() -> None:
    for cell in ("1001", "1001.0", "1001.00"):
        assert read_inputs(CSV, HEADER + f"1,2024-01-01,{cell},2,true\n")["plan"] == [b"1001"]
    for value in (1001, 1001.0, "1001"):
        row = {**PLAIN_JSON, "plan": value}
        # Not every category is an integer, but this one is.
        assert read_inputs(NDJSON, json.dumps(row))["plan"] == [b"1001"]


def test_frames_may_hold_dates_nulls_and_categories() -> None:
    moment = datetime.datetime(2024, 3, 1, 12)
    frame = pl.DataFrame(
        {
            "age": [40.5, None],
            "since": [moment, None],
            "plan": [1001, None],
            "rooms": [2.0, None],
            "garden": [False, None],
        }
    )
    dates = frame.with_columns(pl.col("since").cast(pl.Date))
    zoned = frame.with_columns(pl.col("since").dt.replace_time_zone("UTC"))
    texts = frame.with_columns(pl.Series("since", ["2024-03-01 12:00", None]))
    for table, days in ((frame, 19783.5), (dates, 19783.0), (zoned, 19783.5), (texts, 19783.5)):
        name, result = from_frame(table, "serving_default", MODEL)
        assert name == "serving_default"
        np.testing.assert_array_equal(result["since"], [days, np.nan])
        np.testing.assert_array_equal(result["age"], [40.5, np.nan])
        assert (result["plan"], result["rooms"]) == (["1001", ""], [2, MIN])
        assert result["garden"] == [False, True]
    with pytest.raises(ClientError, match="input age: expected float64, got dates"):
        from_frame(frame.with_columns(age=pl.col("since")), "serving_default", MODEL)
    with pytest.raises(ClientError, match="input since: expected a date such as"):
        from_frame(frame.with_columns(pl.Series("since", ["x", "y"])), "serving_default", MODEL)


def test_pandas_frames_may_hold_missing_values_of_every_kind() -> None:
    pd: Any = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "age": [40.5, None],
            "since": pd.to_datetime(["2024-03-01", None], utc=True),
            "plan": pd.Series(["gold", None], dtype="string"),
            "rooms": pd.Series([2, None], dtype="Int64"),
            "garden": pd.Series([False, None], dtype="boolean"),
        }
    )
    _, result = from_frame(frame, "serving_default", MODEL)
    np.testing.assert_array_equal(result["age"], [40.5, np.nan])
    np.testing.assert_array_equal(result["since"], [19783.0, np.nan])
    assert (result["plan"], result["rooms"]) == (["gold", ""], [2, MIN])
    assert result["garden"] == [False, True]


@pytest.mark.parametrize("signature_name", ["serving_default", "dense"])
def test_dates_in_frames_are_encoded_as_days_in_matrices(signature_name: str) -> None:
    pd: Any = pytest.importorskip("pandas")
    day = replace(schemas.column("day", kind="date"), form="%Y-%d-%m")
    schema = schemas.with_description(schemas.numeric("x", "day"), schemas.column("x"), day)
    days = [datetime.date(2024, 3, 1), datetime.date(2024, 3, 2)]
    # Dates are datetime64 in polars, and objects in pandas.
    for library in (pl, pd):
        frame = library.DataFrame({"day": days, "x": [1.5, 2.5]})
        name, result = from_frame(frame, signature_name, schema)
        assert name == "dense"
        assert result["features"].tolist() == [[1.5, 19783.0], [2.5, 19784.0]]


def test_float64_columns_keep_their_digits() -> None:
    milliseconds = 1_700_000_060_123.25
    assert read_inputs(CSV, HEADER + f"{milliseconds},,,,\n")["age"] == [milliseconds]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            HEADER + "1,03/01/2024,gold,2,true\n",
            'line 2, column "since": expected a date such as 2024-03-01 or 2024-03-01T12:30:00Z, '
            'got "03/01/2024"',
        ),
        (HEADER + "1,20240301,gold,2,true\n", 'column "since": expected a date such as'),
        (HEADER + "$5,2024-03-01,gold,2,true\n", 'column "age": expected float64, got "$5"'),
        (HEADER + '"1,234",2024-03-01,gold,2,true\n', 'expected float64, got "1,234"'),
        (HEADER + "1,2024-03-01,gold,2.5,true\n", 'column "rooms": expected int64, got "2.5"'),
        (HEADER + "1,2024-03-01,gold,2,maybe\n", 'column "garden": expected bool, got "maybe"'),
        (
            HEADER.replace(",", ";") + "1,5;;;;\n1.5;;;;\n",
            'line 3, column "age": expected a decimal comma as in other rows, got "1.5"',
        ),
        (HEADER.replace(",", "|") + "1,5 kg||||\n", 'expected float64, got "1,5 kg"'),
        ("sep=;\nage;since;plan;rooms\n", 'line 2: column "garden" is missing'),
        ("age,Age,since,plan,rooms,garden\n", 'unknown column "Age"; the columns are age, since,'),
        (b"PK\x03\x04" + b"x" * 99, "got a zip archive or an Excel workbook"),
        (b"\x1f\x8b\x08", "got gzip; send it with Content-Encoding: gzip"),
        (HEADER.encode("utf-16"), "got UTF-16; write UTF-8"),
    ],
)
def test_unreadable_tables_are_rejected(body: bytes | str, message: str) -> None:
    assert message in error_message(CSV, body)


def respond(
    content_type: str, accept: str, body: bytes | str, **arguments: Any
) -> tuple[bytes, tuple[str, ...]]:
    """Return a response that numbers the predicted rows, and the ignored columns."""
    options = TableOptions(**arguments)
    layout = TableLayout.from_schema(MODEL, options.signature_name, options.outputs)
    reader, writer = table_reader(content_type, layout, options), table_writer(accept, options)
    data = body.encode() if isinstance(body, str) else body
    out, seen = b"", 0
    for rows in (*reader.feed(data), *reader.finish()):
        count = rows.count - len(rows.errors)
        outputs: Mapping[str, Any] = {"y": np.arange(seen, seen + count, dtype=np.float32)}
        out += writer.write(rows, outputs if rows.call else layout.empty_outputs())
        seen += count
    return out + writer.end(), reader.ignored_columns


TABLE = (
    "id,churn," + HEADER + "a1,yes,1,2024-01-01,gold,2,true\n=2,no,two,2024-01-01,gold,2,true\n"
    "-3,no,3,2024-01-01,gold,2,true\n@x,no,4,2024-01-01,gold\n"
)


def test_label_is_ignored_and_id_is_passed_through() -> None:
    body = TABLE.replace("two", "2").replace("gold\n", "gold,2,true\n")
    result, ignored = respond(CSV, CSV, body, id_column="id")
    assert ignored == ("churn",)
    assert result.decode() == "id,y\na1,0.0\n'=2,1.0\n-3,2.0\n'@x,3.0\n"
    result, _ = respond(CSV, CSV, body, id_column="id", csv_guard=False)
    assert result.decode().splitlines()[2] == "=2,1.0"
    result, _ = respond(CSV, NDJSON, body, id_column="id", keep=("age", "churn"))
    assert json.loads(result.splitlines()[0]) == {"id": "a1", "age": "1", "churn": "yes", "y": 0.0}
    result, ignored = respond(CSV, TSV, body, keep_all=True)
    header = result.decode().splitlines()[0]
    assert header.split("\t") == ["id", "churn", *HEADER.strip().split(","), "y"]
    assert ignored == ()


def test_invalid_rows_have_their_errors_in_place() -> None:
    errors = {
        1: 'line 3, column "age": expected float64, got "two"',
        3: "line 5: expected 7 cells as in the header, got 5",
    }
    arguments: dict[str, Any] = {"id_column": "id", "errors_in_rows": True}
    result, _ = respond(CSV, CSV, TABLE, **arguments)
    rows = list(csv.DictReader(io.StringIO(result.decode())))
    assert [row["id"] for row in rows] == ["a1", "'=2", "-3", "'@x"]
    assert [row["y"] for row in rows] == ["0.0", "", "1.0", ""]
    assert {i: row["error"] for i, row in enumerate(rows) if row["error"]} == errors
    result, _ = respond(CSV, JSON, TABLE, **arguments)
    predictions = json.loads(result)["predictions"]
    assert predictions == [
        {"id": "a1", "y": 0.0},
        {"id": "=2", "error": errors[1]},
        {"id": "-3", "y": 1.0},
        {"id": "@x", "error": errors[3]},
    ]
    result, _ = respond(CSV, ARROW, TABLE, **arguments)
    table = pa.ipc.open_stream(result).read_all()
    assert table["y"].to_pylist() == [0.0, None, 1.0, None]
    assert table["error"].to_pylist() == [None, errors[1], None, errors[3]]
    # Without errors in rows, the first error found fails the table.
    assert error_message(CSV, TABLE, TableOptions(id_column="id")) == errors[3]


def test_rows_read_one_by_one_share_the_decimal_comma() -> None:
    body = HEADER.replace(",", ";") + "1,5;;;;\n1.234;;;;\nx,y;;;;\n2;;;;\n"
    (rows,), _ = read_rows(CSV, body, TableOptions(errors_in_rows=True))
    assert call_inputs(rows)["age"].tolist() == [1.5, 2]
    assert rows.errors == {
        1: 'line 3, column "age": expected a decimal comma as in other rows, got "1.234"',
        2: 'line 4, column "age": expected float64, got "x,y"',
    }


def test_rows_with_a_different_shape_have_errors() -> None:
    layout = TableLayout.from_schema(schemas.schema(x=schemas.spec("FLOAT", None, None)))
    reader = table_reader(NDJSON, layout, TableOptions(errors_in_rows=True))
    (rows,) = [*reader.feed(b"[1,2]\n[1,2,3]\n[4,5]\n"), *reader.finish()]
    assert call_inputs(rows)["x"].tolist() == [[1, 2], [4, 5]]
    assert rows.errors == {1: 'column "x": expected shape [2] as in earlier rows, got [3]'}


@pytest.mark.parametrize("accept", [CSV, NDJSON, ARROW, JSON])
def test_table_with_only_invalid_rows_returns_their_errors(accept: str) -> None:
    result, _ = respond(CSV, accept, HEADER + "x,,,,\n" * 40, errors_in_rows=True)
    assert result.count(b"expected float64") == 40


def test_duplicate_key_in_a_line_is_rejected() -> None:
    line = json.dumps(PLAIN_JSON)
    assert (
        error_message(NDJSON, f'{line}\n{line[:-1]}, "age": 2}}\n') == 'line 2: duplicate key "age"'
    )


def test_invalid_json_lines_have_their_errors_in_place() -> None:
    line = json.dumps(PLAIN_JSON)
    lines = (
        f'{line}\n{{\n{line[:-1]}, "more": 1}}\n{json.dumps({**PLAIN_JSON, "age": []})}\n{line}\n'
    )
    result, _ = respond(NDJSON, NDJSON, lines, errors_in_rows=True)
    rows = [json.loads(line) for line in result.splitlines()]
    assert [list(row) for row in rows] == [["y"], ["error"], ["error"], ["error"], ["y"]]
    assert rows[1]["error"].startswith("line 2: not JSON")
    assert 'line 3: unknown column "more"' in rows[2]["error"]
    assert 'line 4, column "age": expected a number' in rows[3]["error"]


def test_columns_of_arrow_and_json_are_passed_through_with_their_types() -> None:
    table = pa.table(
        {
            "id": pa.array([7, None], pa.int64()),
            "day": pa.array([datetime.date(2024, 3, 1)] * 2),
            "size": pa.array([0.1, 2.5], pa.float32()),
            "name": ["x", "y"],
            **{name: [value] * 2 for name, value in PLAIN_JSON.items()},
        }
    )
    arguments: dict[str, Any] = {"id_column": "id", "keep": ("day", "size", "name", "garden")}
    expected: list[dict[str, Any]] = [
        {"id": 7, "day": "2024-03-01", "size": 0.1, "name": "x", "garden": True, "y": 0.0},
        {"id": None, "day": "2024-03-01", "size": 2.5, "name": "y", "garden": True, "y": 1.0},
    ]
    result, _ = respond(ARROW, NDJSON, as_arrow(table), **arguments)
    assert [json.loads(line) for line in result.splitlines()] == expected
    for content_type, body in ((ARROW, as_arrow(table)), (NDJSON, encode_lines(expected))):
        result, _ = respond(content_type, ARROW, body, **arguments)
        assert pa.ipc.open_stream(result).read_all().to_pylist() == expected


def test_lists_and_bytes_of_arrow_are_passed_through() -> None:
    day = datetime.date(2024, 3, 1)
    extra = {
        "tags": pa.array([["a", "b"], ["c", "d"]], pa.list_(pa.string(), 2)),
        "days": pa.array([[day, day]] * 2, pa.list_(pa.date32(), 2)),
        "sizes": pa.array([[0.1, 2.5]] * 2, pa.list_(pa.float32(), 2)),
        "raw": pa.array([b"\xff\x01", b"\xfe\x01"]),
    }
    table = pa.table({**extra, **{name: [value] * 2 for name, value in PLAIN_JSON.items()}})
    result, _ = respond(ARROW, NDJSON, as_arrow(table), keep=tuple(extra))
    dates, sizes = ["2024-03-01"] * 2, [0.1, 2.5]
    assert [json.loads(line) for line in result.splitlines()] == [
        {"tags": ["a", "b"], "days": dates, "sizes": sizes, "raw": {"b64": "/wE="}, "y": 0.0},
        {"tags": ["c", "d"], "days": dates, "sizes": sizes, "raw": {"b64": "/gE="}, "y": 1.0},
    ]
    for accept in (CSV, ARROW, JSON):
        result, _ = respond(ARROW, accept, as_arrow(table), keep=tuple(extra))
        assert b"/wE=" in result


def test_null_arrow_list_affects_only_its_row() -> None:
    lists = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    table = pa.table({"e": lists, **{name: [value] * 2 for name, value in PLAIN_JSON.items()}})
    result, _ = respond(ARROW, NDJSON, as_arrow(table), keep=("e",))
    assert [json.loads(line)["e"] for line in result.splitlines()] == [[1, 2], None]
    layout = TableLayout.from_schema(schemas.schema(e=schemas.spec("FLOAT", None, 2)))
    reader = table_reader(ARROW, layout, TableOptions(errors_in_rows=True))
    (rows,) = reader.feed(as_arrow(pa.table({"e": lists})))
    assert call_inputs(rows)["e"].tolist() == [[1, 2]]
    assert rows.errors == {1: 'row 2, column "e": expected a number, got null'}
    table = table.set_column(0, "e", pa.array([[1.0, None], None], pa.list_(pa.float32(), 2)))
    with pytest.raises(ClientError, match='column "e": expected no null within a list'):
        respond(ARROW, NDJSON, as_arrow(table), keep=("e",))


def test_column_of_nulls_needs_no_arrow_dictionary() -> None:
    words = pa.dictionary(pa.int32(), pa.string())
    plain = {name: [value] for name, value in PLAIN_JSON.items()}
    for plan, message in ((None, ""), ("gold", "a message that cannot be read")):
        stream = as_arrow(pa.table({**plain, "plan": pa.array([plan], words)}))
        messages = list(pa.ipc.MessageReader.open_stream(stream))
        body = b"".join(m.serialize() for m in messages if m.type != "dictionary")
        if message:
            assert message in error_message(ARROW, body)
        else:
            assert read_inputs(ARROW, body)["plan"] == [b""]


def test_repeated_column_names_are_limited_in_total_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_writers, "MAX_NAME_BYTES", 300)
    body = f"{'n' * 97}," + HEADER + "x,1,,,,\n" * 4
    with pytest.raises(ClientError, match="take more than 300 bytes in 4 rows") as caught:
        respond(CSV, NDJSON, body, keep_all=True)
    assert caught.value.status == 413
    respond(CSV, CSV, body, keep_all=True)


def encode_lines(rows: list[dict[str, Any]]) -> bytes:
    inputs = [{k: v for k, v in row.items() if k != "y"} for row in rows]
    return b"\n".join(json.dumps({**PLAIN_JSON, **row}).encode() for row in inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_column": "nosuch"}, 'line 1: id: the table has no column "nosuch"'),
        ({"keep": ("age", "nosuch")}, 'line 1: keep: the table has no column "nosuch"'),
    ],
)
def test_unknown_column_cannot_be_passed_through(arguments: dict[str, Any], message: str) -> None:
    assert error_message(CSV, HEADER + "1,,,,\n", TableOptions(**arguments)) == message


def test_column_named_like_an_output_cannot_be_passed_through() -> None:
    body = HEADER.strip() + ",y\n1,,,,,5\n"
    assert 'column "y" cannot be passed through' in error_message(
        CSV, body, TableOptions(keep_all=True)
    )


def test_column_named_error_cannot_be_passed_through_with_row_errors() -> None:
    body = HEADER.strip() + ",error\n1,,,,,5\n"
    options = TableOptions(keep=("error",), errors_in_rows=True)
    assert 'column "error" cannot be returned with on_error=row' in error_message(
        CSV, body, options
    )


def test_npy_supports_neither_names_nor_errors() -> None:
    for arguments in ({"id_column": "a"}, {"errors_in_rows": True}):
        with pytest.raises(ClientError, match="application/x-npy holds outputs only") as caught:
            table_writer(NPY, TableOptions(**arguments))
        assert caught.value.status == 406
    layout = TableLayout.from_schema(schemas.numeric())
    with pytest.raises(ClientError, match="an array has no column names"):
        table_reader(NPY, layout, TableOptions(keep_all=True))
    matrix = np.array([[1, 2, 3], [np.inf, 5, 6], [7, 8, 9]])
    reader = table_reader(NPY, layout, TableOptions(errors_in_rows=True))
    (rows,) = [*reader.feed(as_npy(matrix)), *reader.finish()]
    assert rows.errors == {1: 'row 2, column "b": expected a number, got inf'}
    assert rows.call is not None
    assert rows.call.inputs["features"].tolist() == [[1, 2, 3], [7, 8, 9]]


def test_options_are_read_from_the_query() -> None:
    query = "signature_name=s&outputs=a,b&id=key&keep=x,y&keep=z&on_error=row&csv_guard=off"
    assert TableOptions.from_query(query) == TableOptions(
        "s", ("a", "b"), "key", ("x", "y", "z"), errors_in_rows=True, csv_guard=False
    )
    assert TableOptions.from_query("keep=all") == TableOptions(keep_all=True)
    with pytest.raises(ClientError, match='on_error: expected table or row, got "skip"'):
        TableOptions.from_query("on_error=skip")


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/jsonl", NDJSON),
        ("application/x-jsonlines; charset=utf-8", NDJSON),
        ("application/ndjson", NDJSON),
        ("Application/CSV", CSV),
        ("text/tab-separated-values", TSV),
        ("text/tsv", TSV),
    ],
)
def test_media_type_aliases_are_recognized(content_type: str, kind: str) -> None:
    assert is_table(content_type)
    assert media_type(content_type) == kind


@pytest.mark.parametrize(
    "content_type",
    ["application/vnd.apache.parquet", "application/json-seq", "application/vnd.ms-excel"],
)
def test_unsupported_table_types_are_rejected(content_type: str) -> None:
    assert is_table(content_type)
    with pytest.raises(ClientError, match="Content-Type: expected one of") as caught:
        table_reader(media_type(content_type), TableLayout.from_schema(MODEL), TableOptions())
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "content_type",
    [None, "", JSON, "application/json; charset=utf-8", "text/plain", "application/octet-stream"],
)
def test_other_content_types_are_not_tables(content_type: str | None) -> None:
    assert not is_table(content_type)


def test_table_with_only_invalid_rows_has_no_call() -> None:
    chunks, _ = read_rows(CSV, HEADER + "x,,,,\n", TableOptions(errors_in_rows=True))
    assert [type(rows) for rows in chunks] == [TableRows]
    assert chunks[0].call is None


def test_examples_of_models_without_a_description_follow_their_signatures() -> None:
    batched = schemas.schema(
        x=schemas.spec("FLOAT", None, 2),
        n=schemas.spec("INT64", None),
        s=schemas.spec("STRING", None),
        b=schemas.spec("BOOL", None),
    )
    row = {"x": [1.0, 1.0], "n": 1, "s": "text", "b": True}
    assert example_request(batched) == {"instances": [row]}
    fixed = schemas.schema(x=schemas.spec("FLOAT", 2, 3), y=schemas.spec("DOUBLE"))
    expected = {"inputs": {"x": [[1.0] * 3] * 2, "y": 1.0}}
    assert example_request(fixed) == expected
    predict.read(json.dumps(expected).encode(), fixed)
    described = example_request(MODEL)["instances"]
    assert described[1] == {
        "age": 1.5,
        "since": "1970-01-03",
        "plan": "1001",
        "rooms": 3,
        "garden": True,
    }
    predict.read(json.dumps({"instances": described}).encode(), MODEL)
    with pytest.raises(ClientError, match="values of bfloat16 have no JSON form"):
        example_request(schemas.schema(x=schemas.spec("BFLOAT16", None)))
