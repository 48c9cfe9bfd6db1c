"""Tables in every format: over HTTP with a real model server, and in chunks without one."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from client import ClientError, ServingClient
from client.codecs import Call
from client.codecs.tables import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    TSV,
    WRITABLE,
    TableLayout,
    TableOptions,
    TableRows,
    media_type,
    negotiate,
    table_reader,
    table_writer,
)
from client.codecs.tables.arrow import reader as arrow_reader
from client.codecs.tables.lines import BLOCK_BYTES
from client.serving.schema import Schema, TensorSpec
from client.serving.tensors import STRING
from tests.client import schemas
from tests.client.bodies import npy as as_npy
from tests.conftest import Starter
from tests.support import forked, mixed, processes
from tests.support.caller import model_config, models_config
from tests.support.tables import breast_cancer

JSON = "application/json"
TABLE = breast_cancer()
ROWS = TABLE.features.astype(np.float32)
NO_MISSING = "training saw no missing values in this column"


def as_csv(columns: Mapping[str, Iterable[Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue().encode()


def as_ndjson(columns: Mapping[str, Iterable[Any]]) -> bytes:
    rows = zip(*columns.values(), strict=True)
    return b"".join(
        json.dumps(dict(zip(columns, row, strict=True))).encode() + b"\n" for row in rows
    )


def as_arrow(table: Any, batch: int | None = None, **options: Any) -> bytes:
    table = table if isinstance(table, pa.Table) else pa.table(dict(table))
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch)
    return out.getvalue()


def decode_rows(body: bytes, content_type: str) -> list[dict[str, Any]]:
    """Decode the rows of a response."""
    if content_type in (CSV, TSV):
        separator = "\t" if content_type == TSV else ","
        text = io.StringIO(body.decode())
        rows: list[Any] = list(csv.DictReader(text, delimiter=separator))
        return [
            {**r, "logit": float(r["logit"]), "probability": float(r["probability"])} for r in rows
        ]
    if content_type == NDJSON:
        return [json.loads(line) for line in body.splitlines()]
    if content_type == ARROW:
        table_rows: list[dict[str, Any]] = pa.ipc.open_stream(body).read_all().to_pylist()
        return table_rows
    if content_type == NPY:
        table = np.load(io.BytesIO(body), allow_pickle=False)
        names = table.dtype.names
        return [
            {n: v.decode() if isinstance(v, bytes) else v for n, v in zip(names, row, strict=True)}
            for row in table.tolist()
        ]
    predictions: list[dict[str, Any]] = json.loads(body)["predictions"]
    return predictions


def read(content_type: str, body: bytes, schema: Schema, size: int = 2**16, **options: Any) -> Any:
    reader = table_reader(content_type, TableLayout.from_schema(schema, **options), TableOptions())
    chunks = [rows for i in range(0, len(body), size) for rows in reader.feed(body[i : i + size])]
    return [rows.call for rows in [*chunks, *reader.finish()]]


def concatenate(calls: list[Call]) -> dict[str, Any]:
    return {name: np.concatenate([c.inputs[name] for c in calls]) for name in calls[0].inputs}


def read_error(content_type: str, body: bytes, schema: Schema) -> ClientError:
    with pytest.raises(ClientError) as caught:
        read(content_type, body, schema)
    assert 400 <= caught.value.status < 500
    return caught.value


# Over HTTP, in front of a real model server.


@pytest.fixture(scope="module")
def server(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a model server with two models."""
    folder = tmp_path_factory.mktemp("tables")
    mixed.publish(folder / "flats")
    paths = (folder / "flats", trained_models / "breast_cancer")
    with forked.model_server(folder, models_config(*map(model_config, paths))) as address:
        yield address


@pytest.fixture(scope="module")
def connection(server: str) -> Iterator[ServingClient]:
    with ServingClient(server, timeout=30) as connection:
        yield connection


@pytest.fixture(scope="module")
def url(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with forked.client(tmp_path_factory.mktemp("client") / "log", server) as address:
        yield address


def post(url: str, content_type: str, body: Any, accept: str = "*/*", **query: str) -> Any:
    return requests.post(
        f"{url}/v1/models/{query.pop('model', 'breast_cancer')}:predict",
        params=query,
        data=body,
        headers={"Content-Type": content_type, "Accept": accept},
        timeout=60,
        stream=True,
    )


COLUMNS = {name: ROWS[:, i].tolist() for i, name in enumerate(TABLE.columns)}
BODIES = {
    CSV: as_csv(COLUMNS),
    NDJSON: as_ndjson(COLUMNS),
    ARROW: as_arrow(COLUMNS, batch=100),
    NPY: as_npy(ROWS),
}


@pytest.fixture(scope="module")
def expected(connection: ServingClient) -> Mapping[str, Any]:
    inputs = {"features": ROWS}
    return connection.predict("breast_cancer", inputs, signature_name="dense").outputs


@pytest.mark.parametrize("accept", WRITABLE)
@pytest.mark.parametrize("content_type", BODIES)
def test_every_request_format_is_answered_in_every_response_format(
    url: str, expected: Mapping[str, Any], content_type: str, accept: str
) -> None:
    response = post(url, content_type, BODIES[content_type], accept)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == accept
    rows = decode_rows(response.content, accept)
    assert [row["label"] for row in rows] == expected["label"].tolist()
    for name in ("logit", "probability"):
        np.testing.assert_allclose([row[name] for row in rows], expected[name], rtol=1e-6)


def test_response_type_defaults_to_the_request_type(url: str) -> None:
    for content_type, body in BODIES.items():
        response = requests.post(
            f"{url}/v1/models/breast_cancer:predict",
            data=body,
            headers={"Content-Type": content_type},
            timeout=60,
        )
        assert response.headers["Content-Type"] == content_type


@pytest.mark.parametrize("accept", [NPY, ARROW])
def test_only_requested_outputs_are_returned(
    url: str, expected: Mapping[str, Any], accept: str
) -> None:
    response = post(url, NPY, BODIES[NPY], accept, outputs="probability").content
    actual = (
        np.load(io.BytesIO(response))
        if accept == NPY
        else pa.ipc.open_stream(response).read_all()["probability"].to_numpy()
    )
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected["probability"])


def test_gzipped_tables_are_decoded_without_blocking_others(
    url: str, server: str, starter: Starter
) -> None:
    body, gzipped = BODIES[CSV], {"Content-Encoding": "gzip", "Content-Type": CSV}
    members = b"".join(gzip.compress(body[i : i + 9999]) for i in range(0, len(body), 9999))
    post_table = functools.partial(
        requests.post, f"{url}/v1/models/breast_cancer:predict", timeout=60
    )
    response = post_table(data=members, headers=gzipped)
    assert response.status_code == 200, response.text
    assert len(response.content.splitlines()) == 1 + len(ROWS)
    response = post_table(data=gzip.compress(body) + bytes(10**6), headers=gzipped)
    assert response.status_code == 400
    assert "the body does not match its Content-Encoding" in response.json()["error"]
    # Empty gzip members do not circumvent the limit.
    limited = starter.client(server, CLIENT_MAX_TABLE_BYTES="1000000").address
    empty_members = gzip.compress(b"", 0) * 60_000
    response = requests.post(f"{limited}/predict", data=empty_members, headers=gzipped, timeout=60)
    assert (response.status_code, response.json()["error"]) == (
        413,
        "the body is too large; expected at most 1000000 bytes",
    )
    # Other requests are answered while a table expands to 60 MB of mostly empty lines.
    blank = gzip.compress(body.split(b"\n")[0] + b"\n" * 60_000_000 + body.split(b"\n")[1] + b"\n")
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(post_table, data=blank, headers=gzipped)
        slowest, begin = 0.0, time.monotonic()
        while not pending.done():
            started = time.monotonic()
            assert requests.get(f"{url}/livez", timeout=10).ok
            slowest = max(slowest, time.monotonic() - started)
        duration = time.monotonic() - begin
        assert pending.result().status_code == 200, pending.result().text
    assert slowest < duration / 2


def test_request_timeout_header_applies_to_tables(url: str) -> None:
    for seconds, status in (("abc", 400), ("0.000001", 504), ("20", 200)):
        headers = {"Content-Type": CSV, "X-Request-Timeout": seconds}
        response = requests.post(
            f"{url}/v1/models/breast_cancer:predict", data=BODIES[CSV], headers=headers, timeout=20
        )
        assert response.status_code == status, response.text


@pytest.mark.parametrize("compatible", [True, False], ids=["retrained", "reordered"])
def test_table_continues_with_a_new_version_only_if_it_is_compatible(
    tmp_path: Path, starter: Starter, compatible: bool
) -> None:
    path = tmp_path / "flats"
    mixed.publish(path)
    server = starter.model_server("--model_name=flats", f"--model_base_path={path}").address
    address = starter.client(server, CLIENT_MODEL="flats").address
    retrained = replace(mixed.COLUMNS[0], class_means=(99.0, 1.0))  # on other rows
    columns = (retrained, *mixed.COLUMNS[1:]) if compatible else mixed.COLUMNS[::-1]
    line = b"40,350.0,Basel,42,true,2,true\n"

    def body() -> Iterator[bytes]:
        yield ",".join(column.name for column in mixed.COLUMNS).encode() + b"\n" + line * 20_000
        mixed.publish(path, version=2, columns=columns)
        with ServingClient(server) as connection:
            processes.wait_for(
                lambda: connection.schema("flats").version == 2, "version 2 is served"
            )
        yield line * 20_000

    response = post(address, CSV, body(), model="flats", outputs="logit")
    if compatible:
        assert response.status_code == 200, response.text
        assert response.headers["X-Model-Version"] == "2"
        assert len(response.content.splitlines()) == 1 + 40_000
    else:
        assert response.status_code == 409
        assert response.json()["error"].startswith(
            "version 1 of the model was replaced by version 2, "
        )


def test_explain_signature_returns_lists(url: str, connection: ServingClient) -> None:
    contribution = connection.predict(
        "breast_cancer",
        {n: ROWS[:, i] for i, n in enumerate(TABLE.columns)},
        signature_name="explain",
    ).outputs["contribution"]
    for content_type in (NPY, CSV):
        query = {"signature_name": "explain", "outputs": "contribution"}
        actual = np.load(
            io.BytesIO(post(url, content_type, BODIES[content_type], NPY, **query).content)
        )
        np.testing.assert_array_equal(actual, contribution)
    response = post(url, NPY, BODIES[NPY], ARROW, signature_name="explain").content
    table = pa.ipc.open_stream(response).read_all()
    assert table.schema.field("contribution").type == pa.list_(
        pa.field("item", pa.float32(), nullable=False), 30
    )
    np.testing.assert_array_equal(np.stack(table["contribution"].to_numpy()), contribution)
    line = post(url, NPY, BODIES[NPY], CSV, signature_name="explain").text.splitlines()[1]
    assert len(json.loads(next(csv.reader([line]))[1])) == 30


FLATS: dict[str, list[Any]] = {
    "Age (years)": [40, 1.5, 4],
    "income": [350.5, None, 2.0],
    "city": ["Basel", " Zug", 'a,"b"\nc'],
    "district": ["42", None, "13"],
    "garden": ["true", None, "false"],
    "rooms": [2, 9007199254740993, -1],
    "balcony": [True, False, True],
}


# The contributions of tests/support/mixed.py, and the bias.
LOGITS = [
    0.4 + 3.505 + 1 + 1 + 1 + 1 + 1 - 3,
    0.015 - 2 + 2 - 2 - 2 + 2 + 0 - 3,
    0.04 + 0.02 - 1 + 2 + 0 - 1 + 1 - 3,
]


def test_columns_of_every_kind_and_missing_values_are_read(url: str) -> None:
    unusual_types = pa.table(
        {
            "balcony": pa.array(FLATS["balcony"]),
            "rooms": pa.array(FLATS["rooms"], pa.int64()),
            "garden": pa.array(FLATS["garden"], pa.large_string()),
            # pandas writes numeric categories this way.
            "district": pa.array([42, None, 13], pa.int16()),
            "city": pa.array(FLATS["city"]).dictionary_encode(),
            "income": pa.array([350.5, float("nan"), 2.0], pa.float64()),
            "Age (years)": pa.array([40, 1.5, 4], pa.float16()),
        }
    )
    bodies = [
        (CSV, as_csv({n: ["" if v is None else v for v in c] for n, c in FLATS.items()})),
        (NDJSON, as_ndjson(FLATS)),
        (ARROW, as_arrow(FLATS)),
        (ARROW, as_arrow(unusual_types)),
        (
            NDJSON,
            b"".join(
                json.dumps(
                    {k: v for k, v in zip(FLATS, row, strict=True) if v is not None}
                ).encode()
                + b"\r\n\n"
                for row in zip(*FLATS.values(), strict=True)
            ),
        ),
        (
            NDJSON,
            b"\n".join(json.dumps(row).encode() for row in zip(*FLATS.values(), strict=True)),
        ),
    ]
    for content_type, body in bodies:
        response = post(url, content_type, body, JSON, model="flats")
        assert response.status_code == 200, response.text
        logits = [row["logit"] for row in response.json()["predictions"]]
        np.testing.assert_allclose(logits, LOGITS, rtol=1e-5)


def test_polars_tables_are_read_and_written(url: str, expected: Mapping[str, Any]) -> None:
    frame = pl.DataFrame(COLUMNS)
    body = io.BytesIO()
    frame.write_ipc_stream(body)
    response = post(url, ARROW, body.getvalue())
    result = pl.read_ipc_stream(response.content)
    np.testing.assert_allclose(result["logit"], expected["logit"], rtol=1e-6)
    kinds = {"city": pl.Categorical, "Age (years)": pl.Float32}
    flats = pl.DataFrame(FLATS, schema_overrides=kinds)
    logits = []
    for level in (pl.CompatLevel.oldest(), pl.CompatLevel.newest()):
        body = io.BytesIO()
        flats.write_ipc_stream(body, compat_level=level)
        response = post(url, ARROW, body.getvalue(), model="flats")
        assert response.status_code == 200, response.text
        logits.append(pl.read_ipc_stream(response.content)["logit"].to_list())
    np.testing.assert_allclose(logits, [LOGITS, LOGITS], rtol=1e-5)


def test_unsupported_request_and_response_types_are_rejected(url: str) -> None:
    response = post(url, "text/csv; charset=latin-1", BODIES[CSV])
    assert response.status_code == 415
    response = post(url, CSV, BODIES[CSV], "image/png")
    assert response.status_code == 406
    assert f"Accept: expected one of {JSON}, {CSV}" in response.json()["error"]


HEADER = as_csv(COLUMNS).partition(b"\n")[0] + b"\n"
LINE = BODIES[CSV].split(b"\n")[1] + b"\n"
LINES_PER_BLOCK = BLOCK_BYTES // len(LINE) + 1


def test_early_error_sets_the_status(url: str) -> None:
    response = post(url, CSV, HEADER + LINE * 3 + b"abc" + LINE)
    assert response.status_code == 400
    assert response.json()["error"] == (
        f'line 5, column "mean_radius": expected float32, got "abc{ROWS[0, 0]}"'
    )


def test_late_error_is_the_last_line_of_ndjson(url: str) -> None:
    body = HEADER + LINE * (2 * LINES_PER_BLOCK) + b"x" + LINE
    line = 2 * LINES_PER_BLOCK + 2
    response = post(url, CSV, body, NDJSON)
    assert response.status_code == 200
    *rows, last = response.text.splitlines()
    assert len(rows) > LINES_PER_BLOCK / 2
    assert set(json.loads(rows[-1])) == {"label", "logit", "probability"}
    assert json.loads(last)["error"].startswith(
        f'line {line}, column "mean_radius": expected float32'
    )
    # Other formats are not sent before the whole table has been read.
    for accept in (CSV, ARROW, JSON, NPY):
        response = post(url, CSV, body, accept)
        assert response.status_code == 400
        assert response.json()["error"].startswith(f"line {line}, ")


def test_ndjson_is_returned_while_the_table_is_being_sent(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:

        def send(chunk: bytes) -> None:
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))

        connection.sendall(
            b"POST /v1/models/breast_cancer:predict HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: text/csv\r\nAccept: application/x-ndjson\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        send(HEADER + LINE * LINES_PER_BLOCK)
        with connection.makefile("rb") as response:
            assert response.readline() == b"HTTP/1.1 200 OK\r\n"
            while response.readline().strip():
                pass
            first = response.read(int(response.readline(), 16))
            assert first.count(b"\n") > LINES_PER_BLOCK - 100
            send(LINE)
            send(b"")
            response.readline()
            second = response.read(int(response.readline(), 16))
            assert (first + second).count(b"\n") == LINES_PER_BLOCK + 1


# In chunks, without a server.


def random_rows(count: int) -> Any:
    generator = np.random.default_rng(count)
    return generator.normal(100, 30, (count, 3)).astype(np.float32)


NUMBERS = random_rows(50)
NAMED = {name: NUMBERS[:, i].tolist() for i, name in enumerate(("b", "a", "c"))}
SMALL = {
    CSV: as_csv({name: NAMED[name] for name in ("c", "a", "b")}),
    NDJSON: as_ndjson(NAMED),
    ARROW: as_arrow(NAMED, batch=7),
    NPY: as_npy(NUMBERS),
}


@pytest.mark.parametrize("content_type", SMALL)
@given(size=st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_chunk_size_does_not_affect_the_result(content_type: str, size: int) -> None:
    calls = read(content_type, SMALL[content_type], schemas.numeric(), size)
    assert {call.signature_name for call in calls} == {"dense"}
    np.testing.assert_array_equal(concatenate(calls)["features"], NUMBERS)


CELLS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(str),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        ["1.", ".5", "+1", "1e3", "-0", " 7", "8 ", "1E-2", "", "1_0", "inf", "0x1", "1 2"]
    ),
    st.sampled_from(
        ["1e39", "1e400", "9" * 30, "nan", "٣", '"1"', '"1,2"', '"', "0123", "1e", "--1"]
    ),
)


@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=4),
    end=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_fast_path_reads_numbers_like_the_slow_path(rows: list[list[str]], end: bool) -> None:
    body = b"b,a,c\n" + "\n".join(",".join(row) for row in rows).encode() + b"\n" * end
    # Quotes do not change a value, but disable the fast path.
    quoted = body + b"\n" * (not end) + b'"1",1,1\n'
    fast, slow = (read_or_error(CSV, b, schemas.numeric()) for b in (body, quoted))
    if isinstance(fast, ClientError) or isinstance(slow, ClientError):
        assert (
            str(fast) == str(slow) or "expected at least one row" in str(fast) or '"' in str(rows)
        )
    else:
        np.testing.assert_array_equal(
            concatenate(fast)["features"], concatenate(slow)["features"][:-1]
        )


def read_or_error(content_type: str, body: bytes, schema: Schema) -> Any:
    try:
        return read(content_type, body, schema)
    except ClientError as error:
        return error


@pytest.mark.parametrize("content_type", [CSV, NDJSON, ARROW, NPY])
def test_large_tables_are_read_in_little_memory(content_type: str) -> None:
    """A reader may hold a few blocks, but not all of the table's 6 to 60 MB."""
    rows = 500_000
    block = random_rows(50_000)
    columns = {name: block[:, i] for i, name in enumerate(("b", "a", "c"))}
    if content_type == CSV:
        header, _, lines = as_csv({n: c.tolist() for n, c in columns.items()}).partition(b"\n")
        chunks = [header + b"\n"] + [lines] * 10
    elif content_type == NDJSON:
        chunks = [as_ndjson({n: c.tolist() for n, c in columns.items()})] * 10
    elif content_type == ARROW:
        body = as_arrow(pa.concat_tables([pa.table(columns)] * 10), batch=10_000)
        chunks = [body]
    else:
        chunks = [as_npy(np.concatenate([block] * 10))]
    reader = table_reader(content_type, TableLayout.from_schema(schemas.numeric()), TableOptions())
    seen = 0
    tracemalloc.start()
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), 2**16):
                for batch in reader.feed(chunk[start : start + 2**16]):
                    assert batch.count <= 2**14
                    seen += batch.count
        seen += sum(batch.count for batch in reader.finish())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == rows
    assert peak < 25 * 2**20


def test_quoted_cell_may_span_lines_and_blocks() -> None:
    schema = schemas.schema(text=TensorSpec(STRING, (None,)))
    texts = [f'{i} says "hi",\r\nand goes\non' * (i % 7) + "." for i in range(60_000)]
    body = as_csv({"text": texts})
    assert len(body) > 3 * BLOCK_BYTES
    calls = read(CSV, body, schema)
    assert concatenate(calls)["text"].tolist() == [text.encode() for text in texts]
    line = body.count(b"\n") + 1
    assert read_error(CSV, body + b"a,b\n", schema).message == (
        f"line {line}: expected 1 cells as in the header, got 2"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", 'line 1: column "b" is missing, and 2 more'),
        (b"a,b,c\n", "expected at least one row, got none"),
        (b"a,b,c\n\n\n", "expected at least one row, got none"),
        (b"a,b,c\n1,2\n", "line 2: expected 3 cells as in the header, got 2"),
        (b"a,b,c\n1,2,3\n\n1,2,3,4\n", "line 4: expected 3 cells as in the header, got 4"),
        (b"a,b,c\n1,2,3\n1,,3\n", f'line 3, column "b": expected float32, got ""; {NO_MISSING}'),
        (b"a,b,c\n1,1e39,3\n", 'line 2, column "b": expected at most ±3.4028235e+38, got 1e+39'),
        (b"a,b,c\n1,1e400,3\n", 'line 2, column "b": expected float32, got "1e400"'),
        (b"a,b,c\n1,2,\xff\n", "line 2: expected UTF-8, got byte 255"),
        (b'a,b,c\n1,2,"3\n', "line 2: unexpected end of data"),
        (b'a,b,c\n1,2,3\n1,"2"x,3\n', "line 3: ',' expected after '\"'"),
        (b'"a\n', "line 1: unexpected end of data"),
        (b"a,b,d\n1,2,3\n", 'line 1: unknown column "d"; the columns are b, a, c'),
        (b"a,b,c,a\n", 'line 1: duplicate column "a"'),
        (b"a,b\n1,2\n", 'line 1: column "c" is missing'),
        (
            b"a,b,c\n" + b"1" * BLOCK_BYTES,
            f"line 2: expected at most {BLOCK_BYTES} bytes in a line",
        ),
        (
            b'a,b,c\n1,2,"' + b"3\n" * BLOCK_BYTES,
            "line 2: expected the quoted cell to end within 524288 bytes",
        ),
    ],
)
def test_unreadable_csv_is_rejected_with_its_line(body: bytes, message: str) -> None:
    assert read_error(CSV, body, schemas.numeric()).message.removeprefix("Error") == message


def test_lines_are_counted_across_blocks() -> None:
    lines = b"1.25,2.5,3.75\n" * 300_000
    assert read_error(CSV, b"a,b,c\n" + lines + b"1,x,3\n", schemas.numeric()).message == (
        'line 300002, column "b": expected float32, got "x"'
    )
    lines = b'{"a": 1.25, "b": 2.5, "c": 3.75}\n' * 100_000
    assert (
        read_error(NDJSON, lines + b'{"a": 1, "b": null, "c": 1}', schemas.numeric()).message
        == f'line 100001, column "b": expected a number, got null; {NO_MISSING}'
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected at least one row, got none"),
        (b"\n \r\n", "expected at least one row, got none"),
        (b"[1,2,3]\n{", "line 2: not JSON: "),
        (b"[1,2,3]\n[1,\n2]", "line 2: not JSON: "),
        (b"[1,2,3]\n[1,2],[3]", "line 2: not JSON: "),
        (
            b'{"a":1,"b":2,"c":3}\n[1,2,3]',
            "line 2: expected an object like the first row, got a li",
        ),
        (b'{"a":1,"b":2,"d":3}', 'line 1: unknown column "d"; the columns are b, a, c'),
        (b'{"a":1,"b":2}', 'line 1: column "c" (float32) is missing'),
        (b"[1,2]", "line 1: expected 3 values in the order b, a, c, got 2"),
        (b"1", "line 1: expected an object or a list of 3 values in the order b, a, c, got 1"),
        (b'\n\n{"a":1,"b":"2","c":3}', 'line 3, column "b": expected a number, got the string "2"'),
        (b"[" * 100_000, "line 1: not JSON: "),
        (b"\xff", "line 1: not JSON: "),
    ],
)
def test_unreadable_ndjson_is_rejected_with_its_line(body: bytes, message: str) -> None:
    assert read_error(NDJSON, body, schemas.numeric()).message.startswith(message)


def test_tables_without_a_description_are_read_by_the_signature() -> None:
    two = schemas.schema(x=schemas.COLUMN, y=schemas.COLUMN)
    calls = read(NDJSON, b'{"y":1,"x":2}', two)
    assert calls[0].inputs["x"] == [2]
    assert "the model does not describe the order" in read_error(NDJSON, b"[1,2]", two).message
    assert "the model does not describe the order" in read_error(NPY, as_npy(NUMBERS), two).message
    image = schemas.schema(x=TensorSpec(schemas.FLOAT, (None, 2, 2)))
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    lines = b"".join(json.dumps(v).encode() + b"\n" for v in values.tolist())
    for content_type, body in ((NDJSON, lines), (NPY, as_npy(values))):
        np.testing.assert_array_equal(concatenate(read(content_type, body, image))["x"], values)
    assert "a CSV cell is one value" in read_error(CSV, b"x\n1\n", image).message
    vector = schemas.schema(x=TensorSpec(schemas.FLOAT, (None, 2)))
    table = pa.table({"x": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2))})
    np.testing.assert_array_equal(
        concatenate(read(ARROW, as_arrow(table), vector))["x"], [[1, 2], [3, 4]]
    )
    wide = pa.table({"x": pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float64(), 3))})
    assert (
        'column "x": expected float32 [any, 2]' in read_error(ARROW, as_arrow(wide), vector).message
    )


@pytest.mark.parametrize(
    "array",
    [
        NUMBERS.astype(np.float64),
        np.asfortranarray(NUMBERS),
        NUMBERS.astype(">f8"),
        NUMBERS.astype(np.float16).astype(np.float32),
        NUMBERS.astype(np.int64),
        NUMBERS.astype(np.uint8),
    ],
    ids=lambda array: f"{array.dtype} {array.flags.c_contiguous}",
)
def test_arrays_of_other_numeric_types_are_cast(array: Any) -> None:
    actual = concatenate(read(NPY, as_npy(array), schemas.numeric()))["features"]
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, array.astype(np.float32))


def test_array_in_one_chunk_is_not_copied() -> None:
    body = as_npy(NUMBERS)
    reader = table_reader(NPY, TableLayout.from_schema(schemas.numeric()), TableOptions())
    (rows,) = reader.feed(body)
    assert rows.call is not None
    assert np.shares_memory(rows.call.inputs["features"], np.frombuffer(body, np.uint8))


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return (
        b"\x93NUMPY"
        + version
        + len(text).to_bytes(2 if version[0] == 1 else 4, "little")
        + text
        + data
    )


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 3), }"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected an array in numpy.save's format, got 0 bytes"),
        (b"\x93NUMPY\x01", "expected an array in numpy.save's format, got 7 bytes"),
        (b"PK\x03\x04zip", "the body is not an array in numpy.save's format"),
        (
            as_npy(NUMBERS)[:-1],
            "the body is 1 bytes shorter than its header declares: float32 [50, 3]",
        ),
        (
            as_npy(NUMBERS) + b"x",
            "the body is 1 bytes longer than its header declares: float32 [50, 3]",
        ),
        (as_npy(NUMBERS[:, :2]), "expected an array of float32 [any, 3], got float32 [50, 2]"),
        (as_npy(NUMBERS[0]), "expected an array of float32 [any, 3], got float32 [3]"),
        (as_npy(np.float32(1)), "expected an array of float32 [any, 3], got float32 []"),
        (as_npy(NUMBERS[:0]), "expected at least one row, got an array of float32 [0, 3]"),
        (as_npy(NUMBERS.astype(complex)), "expected an array of numbers, got one of '<c16'"),
        (as_npy(NUMBERS.astype("S3")), "expected an array of numbers, got one of '|S3'"),
        (
            as_npy(np.array([[1, None, {}]], object)),
            "expected an array of numbers, got one of '|O'",
        ),
        (as_npy(NUMBERS > 0), 'row 1, column "b": expected a number, got true'),
        (
            as_npy(np.array([[1, np.nan, 1]])),
            f'row 1, column "a": expected a number, got nan; {NO_MISSING}',
        ),
        (as_npy(np.array([[1, 2, np.inf]])), 'row 1, column "c": expected a number, got inf'),
        (as_npy(np.array([[1, 2, 1e39]])), 'row 1, column "c": expected at most ±3.4028235e+38'),
        (
            npy(HUGE),
            "the body is 13835058055282163712 bytes shorter than its header declares: float32 [11",
        ),
        (npy(HUGE.replace("False", "True")), "column-major arrays (fortran_order) may"),
        (npy(HUGE.replace("1152921504606846976, 3", "0, 3")), "expected at least one row"),
        (npy(HUGE.replace("3", "9" * 30)), "the array's header is not in numpy.save's format"),
        (npy("{'descr': '<f4'}"), "the array's header is not in numpy.save's format"),
        (npy("__import__('os')"), "the array's header is not in numpy.save's format"),
        (npy("(" * 9000), "the array's header is not in numpy.save's format"),
        (
            npy("{" + "'descr': '<f4', " * 3 + "}"),
            "the array's header is not in numpy.save's format",
        ),
        (npy(HUGE.replace("False", "'<f8'")), "the array's header is not in numpy.save's format"),
        (npy(HUGE.replace("'<f4'", "True")), "the array's header is not in numpy.save's format"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': True}"),
            "the array's header is not in numpy.save's format",
        ),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
            "the array's header: expected at most 10000 bytes, got 4294967295",
        ),
    ],
)
def test_unreadable_arrays_are_rejected(body: bytes, message: str) -> None:
    assert read_error(NPY, body, schemas.numeric()).message.startswith(message)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_array_of_one_described_column_must_be_finite(dtype: str) -> None:
    schema = schemas.schema(("size",), size=schemas.COLUMN)
    for value, reason in ((np.nan, f"nan; {NO_MISSING}"), (np.inf, "inf")):
        body = as_npy(np.array([1, value, 2], dtype))
        assert read_error(NPY, body, schema).message == (
            f'row 2, column "size": expected a number, got {reason}'
        )
    size = schemas.column("size", missing=True)
    accepting = schemas.with_description(schema, size)
    values = concatenate(read(NPY, as_npy(np.array([1, np.nan], dtype)), accepting))["size"]
    np.testing.assert_array_equal(values, [1, np.nan])
    assert "got inf" in read_error(NPY, as_npy(np.array([np.inf], dtype)), accepting).message


def test_oversized_array_rows_are_rejected() -> None:
    any_shape = schemas.schema(x=TensorSpec(schemas.FLOAT, (None, None)))
    for shape in (f"2, {2**40}", f"{2**62}, {2**62}"):
        body = npy(HUGE.replace("1152921504606846976, 3", shape), b"\0" * 100)
        rejection = read_error(NPY, body, any_shape)
        assert rejection.message.startswith(
            "expected rows of at most 67108864 bytes, got float32 ["
        )
        assert rejection.status == 413


def test_integers_out_of_range_are_rejected() -> None:
    schema = schemas.schema(x=TensorSpec(4, (None,)))  # uint8
    assert concatenate(read(NPY, as_npy(np.array([0, 255])), schema))["x"].tolist() == [0, 255]
    for content_type, body in (
        (NPY, as_npy(np.array([0, 256]))),
        (ARROW, as_arrow({"x": [0, 256]})),
    ):
        assert read_error(content_type, body, schema).message == (
            'row 2, column "x": expected an integer from 0 to 255, got 256'
        )
    assert (
        "expected an integer, got 1.0" in read_error(NPY, as_npy(np.array([1.0])), schema).message
    )


def test_invalid_arrow_tables_are_rejected() -> None:
    numeric, mixed_model = schemas.numeric(), schemas.mixed()
    flats = {"size": [1.0], "income": [1.0], "city": ["Bern"], "district": ["7"]} | {
        "garden": ["true"],
        "rooms": [3],
        "balcony": [True],
    }
    for table, schema, message in (
        ({"a": [1.0]}, numeric, 'column "b" is missing, and 1 more'),
        ({**NAMED, "d": NAMED["a"]}, numeric, 'unknown column "d"; the columns are b, a, c'),
        ({**NAMED, "a": ["x"] * 50}, numeric, 'row 1, column "a": expected a number, got the stri'),
        ({**NAMED, "a": [True] * 50}, numeric, 'row 1, column "a": expected a number, got true'),
        (
            {**NAMED, "a": [1.0, None] * 25},
            numeric,
            f'row 2, column "a": expected a number, got null; {NO_MISSING}',
        ),
        (
            {**NAMED, "a": [1, float("nan")] * 25},
            numeric,
            f'row 2, column "a": expected a number, got nan; {NO_MISSING}',
        ),
        (
            {**NAMED, "a": [1, float("inf")] * 25},
            numeric,
            'row 2, column "a": expected a number, got inf',
        ),
        (
            {**NAMED, "a": pa.nulls(50)},
            numeric,
            f'row 1, column "a": expected a number, got null; {NO_MISSING}',
        ),
        (
            {**NAMED, "a": pa.array(range(50), pa.timestamp("s"))},
            numeric,
            "expected float32 [any], got dates",
        ),
        ({**NAMED, "a": pa.array([[1.0]] * 50)}, numeric, "got Arrow's type list"),
        (
            {**flats, "city": [None]},
            mixed_model,
            f'row 1, column "city": expected a string or {{"b64": "..."}}, got null; {NO_MISSING}',
        ),
        ({**flats, "city": [7]}, mixed_model, 'row 1, column "city": expected a string'),
        (
            {**flats, "rooms": [3.5]},
            mixed_model,
            'row 1, column "rooms": expected an integer, got 3.5',
        ),
        (
            {**flats, "rooms": pa.array([None], pa.int8())},
            mixed_model,
            'row 1, column "rooms": expected an integer, got null',
        ),
        (
            {**flats, "balcony": [1]},
            mixed_model,
            'row 1, column "balcony": expected true or false, got 1',
        ),
    ):
        assert message in read_error(ARROW, as_arrow(table), schema).message
    doubled = pa.Table.from_arrays([pa.array([1.0])] * 4, names=["a", "b", "c", "a"])
    assert read_error(ARROW, as_arrow(doubled), numeric).message == 'duplicate column "a"'
    assert "ends within a message" in read_error(ARROW, SMALL[ARROW][:-20], numeric).message
    assert "has data after its end" in read_error(ARROW, SMALL[ARROW] + b"more", numeric).message
    assert "not an Arrow IPC stream" in read_error(ARROW, b"ARROW1\0\0" * 9, numeric).message
    packed = as_arrow(NAMED, compression="zstd")
    assert "compressed buffers" in read_error(ARROW, packed, numeric).message
    big = as_arrow({n: np.zeros(6_000_000, np.float32) for n in NAMED})
    assert read_error(ARROW, big, numeric).status == 413


@pytest.mark.parametrize("offsets", [(0, 5, 4), (0, 2, 400), (-2, 2, 4)])
def test_invalid_arrow_string_offsets_are_rejected(offsets: tuple[int, ...]) -> None:
    schema = schemas.schema(x=TensorSpec(STRING, (None,)))
    body = as_arrow({"x": ["aa", "bb"]})
    assert concatenate(read(ARROW, body, schema))["x"].tolist() == [b"aa", b"bb"]
    valid, invalid = struct.pack("<3i", 0, 2, 4), struct.pack("<3i", *offsets)
    assert body.count(valid) == 1
    assert "cannot be read" in read_error(ARROW, body.replace(valid, invalid), schema).message


def shared_words(kind: str, rows: int) -> Any:
    """Return a column of equal 100-byte strings whose bytes are stored once."""
    if kind == "dictionary":
        return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), ["w" * 100])
    view = struct.pack("<i4sii", 100, b"wwww", 0, 0)
    buffers = [None, pa.py_buffer(view * rows), pa.py_buffer(b"w" * 100)]
    return pa.Array.from_buffers(pa.string_view(), rows, buffers)


@pytest.mark.parametrize("passed_through", [False, True])
@pytest.mark.parametrize("kind", ["dictionary", "view"])
def test_total_size_of_strings_with_shared_bytes_is_limited(
    monkeypatch: pytest.MonkeyPatch, kind: str, passed_through: bool
) -> None:
    monkeypatch.setattr(arrow_reader, "MAX_TEXT_BYTES", 1000)
    schema = schemas.schema(x=schemas.COLUMN if passed_through else TensorSpec(STRING, (None,)))

    def feed(rows: int) -> Any:
        table = {"x": np.ones(rows), "id": shared_words(kind, rows)}
        table = table if passed_through else {"x": table["id"]}
        reader = table_reader(
            ARROW, TableLayout.from_schema(schema), TableOptions(keep_all=passed_through)
        )
        return list(reader.feed(as_arrow(table)))

    (rows,) = feed(10)
    assert rows.count == 10
    with pytest.raises(ClientError, match="expected at most 1000 bytes of strings, got 1100") as e:
        feed(11)
    assert e.value.status == 413


def test_total_size_of_dictionary_words_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_reader, "MAX_TEXT_BYTES", 150)
    schema = schemas.schema(x=TensorSpec(STRING, (None,)), y=TensorSpec(STRING, (None,)))
    words = shared_words("dictionary", 1)
    assert read(ARROW, as_arrow({"x": words, "y": ["z"]}), schema)
    rejection = read_error(ARROW, as_arrow({"x": words, "y": words}), schema)
    assert (rejection.status, "words and 150 bytes" in rejection.message) == (413, True)


@pytest.mark.parametrize("deltas", [False, True])
def test_dictionaries_may_be_replaced_but_not_extended(deltas: bool) -> None:
    schema = schemas.schema(x=TensorSpec(STRING, (None,)))
    encoded = [
        pa.DictionaryArray.from_arrays(pa.array(keys, pa.int8()), pa.array(words))
        for keys, words in (([0, 1, 0], ["a", "b"]), ([2, 0, 1], ["a", "b", "c"]))
    ]
    out = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)
    with pa.ipc.new_stream(out, pa.schema({"x": encoded[0].type}), options=options) as writer:
        for array in encoded:
            writer.write_batch(pa.record_batch({"x": array}))
    if deltas:
        assert "has a delta dictionary" in read_error(ARROW, out.getvalue(), schema).message
    else:
        actual = concatenate(read(ARROW, out.getvalue(), schema))["x"].tolist()
        assert actual == [b"a", b"b", b"a", b"c", b"a", b"b"]


def test_non_utf8_strings_are_written_in_every_format() -> None:
    outputs = {
        "raw": np.array([b"\xff", b'a,"b"', b""], object),
        "n": np.array([1.5, np.nan, np.inf]),
    }
    bodies = {kind: write_table(kind, outputs) for kind in WRITABLE}
    assert bodies[CSV].decode() == ('n,raw\n1.5,"{""b64"":""/w==""}"\nnan,"a,""b"""\ninf,""\n')
    assert json.loads(bodies[NDJSON].splitlines()[1]) == {"n": None, "raw": 'a,"b"'}
    assert json.loads(bodies[JSON])["predictions"][0] == {"n": 1.5, "raw": {"b64": "/w=="}}
    table = pa.ipc.open_stream(bodies[ARROW]).read_all()
    assert table["raw"].to_pylist() == [b"\xff", b'a,"b"', b""]
    assert np.load(io.BytesIO(bodies[NPY]))["raw"].tolist() == [b"\xff", b'a,"b"', b""]


def write_table(content_type: str, *outputs: Mapping[str, Any]) -> bytes:
    writer = table_writer(content_type, TableOptions())
    chunks = [writer.write(TableRows(None, next(iter(o.values())).size), o) for o in outputs]
    return b"".join([*chunks, writer.end()])


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
)
def test_numbers_of_every_type_are_written_in_every_format(dtype: str) -> None:
    first, second = np.array([0, 1, 1]).astype(dtype), np.array([1, 0]).astype(dtype)
    values = [*first.tolist(), *second.tolist()]
    batches = [{"y": first}, {"y": second}]
    arrow = pa.ipc.open_stream(write_table(ARROW, *batches)).read_all()["y"]
    assert arrow.to_pylist() == values
    array = np.load(io.BytesIO(write_table(NPY, *batches)))
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == values
    assert json.loads(write_table(JSON, *batches))["predictions"] == values
    assert [json.loads(line)["y"] for line in write_table(NDJSON, *batches).splitlines()] == values
    assert [json.loads(line) for line in write_table(CSV, *batches).splitlines()[1:]] == values


def test_outputs_that_are_not_a_table_are_rejected() -> None:
    for kind in WRITABLE:
        with pytest.raises(ClientError, match="do not have one value for each row"):
            write_table(kind, {"a": np.ones(2), "b": np.ones(3)})
        with pytest.raises(ClientError, match="do not have one value for each row"):
            write_table(kind, {"a": np.array(2.0)})
    with pytest.raises(ClientError, match="ends in a zero byte"):
        write_table(NPY, {"a": np.array([b"x\0"], object)})
    with pytest.raises(ClientError, match="the response is larger than 67108864 bytes") as caught:
        write_table(NPY, {"a": np.array([b"x" * 100_000] + [b""] * 1000, object)})
    assert caught.value.status == 413
    with pytest.raises(ClientError, match="cannot be written as Arrow") as caught:
        write_table(ARROW, {"a": np.ones([2, 2, 2])})
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("accept", "content_type", "expected"),
    [
        (None, CSV, CSV),
        ("", NPY, NPY),
        ("*/*", ARROW, ARROW),
        ("*/*", JSON, JSON),
        ("*/*", "application/xml", JSON),
        ("text/*", NPY, CSV),
        ("application/*", NPY, NPY),
        ("application/*", CSV, JSON),
        ("application/json", CSV, JSON),
        ("APPLICATION/X-NPY ; q=0.5 , text/csv;q=0.4", CSV, NPY),
        ("text/csv;q=0.5, */*;q=0.1", NPY, CSV),
        ("text/csv;q=0, */*", CSV, JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", CSV, CSV),
        ("text/csv;header=absent;q=0.2, application/x-npy;q=0.3", CSV, NPY),
        ("nonsense, application/json", CSV, JSON),
        ("text/csv; charset=utf-8", JSON, CSV),
        ("application/ndjson; charset=utf-8", CSV, NDJSON),
    ],
)
def test_response_type_is_negotiated(accept: str | None, content_type: str, expected: str) -> None:
    assert negotiate(accept, content_type) == expected


@pytest.mark.parametrize(
    "accept", ["image/png", "text/csv;q=0", "*/*;q=0", "text", ",", "a/b" * 9999]
)
def test_unsupported_response_types_are_rejected(accept: str) -> None:
    with pytest.raises(ClientError, match="Accept: expected one of application/json") as caught:
        negotiate(accept, JSON)
    assert caught.value.status == 406


def test_media_types_are_read_without_parameters() -> None:
    assert media_type(' Text/CSV; charset="UTF-8"; header=present') == CSV
    assert media_type("") == ""
    with pytest.raises(ClientError, match="expected charset utf-8, got latin-1"):
        media_type("text/csv;charset=latin-1")


def test_layouts_detect_compatible_versions() -> None:
    schema = schemas.numeric("a", "b")
    layout = TableLayout.from_schema(schema)
    assert schema.description is not None
    first, second = schema.description.columns
    for columns, compatible in (
        ((replace(first, mean=9.0, maximum=99.0), second), True),
        ((replace(first, missing=True), second), False),
        ((second, first), False),
    ):
        description = replace(schema.description, columns=columns)
        newer = replace(schema, version=2, description=description)
        assert layout.is_compatible_with(newer) == compatible
    assert not layout.is_compatible_with(schemas.numeric("a", "b", "c"))
    signatures = {
        name: replace(signature, outputs={"logit": signature.outputs["logit"]})
        for name, signature in schema.signatures.items()
    }
    assert not layout.is_compatible_with(replace(schema, signatures=signatures))
    assert TableLayout.from_schema(schema, output_filter=["logit"]).is_compatible_with(
        replace(schema, signatures=signatures)
    )
    with pytest.raises(ClientError, match='model m has no "x"; it has dense, serving_default'):
        TableLayout.from_schema(schemas.numeric(), "x")
    with pytest.raises(ClientError, match='outputs: signature serving_default has no "x"'):
        TableLayout.from_schema(schemas.numeric(), output_filter=["x"])
