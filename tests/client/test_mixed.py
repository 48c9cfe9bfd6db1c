"""Predictions of a model with columns of every kind, over HTTP and from CSV files."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from client import AsyncServingClient, ServingClient
from client.codecs import Call
from client.codecs.json import rows as json_rows
from client.inference.predictor import Predictor
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.schema import Description, Schema
from tests.conftest import Starter
from tests.support import forked, processes
from tests.support.mixed import BIAS, COLUMNS, MISSING, UNKNOWN, MixedColumn, publish
from tests.support.processes import ROOT
from tests.support.together import BatchedPredictor

NAMES = [column.name for column in COLUMNS]
ROW = {
    "Age (years)": 40,
    "income": 350.0,
    "city": "Basel",
    "district": "42",
    "garden": True,
    "rooms": 2,
    "balcony": True,
}
CONTRIBUTIONS = {
    "Age (years)": 0.4,
    "income": 3.5,
    "city": 1.0,
    "district": 1.0,
    "garden": 1.0,
    "rooms": 1.0,
    "balcony": 1.0,
}
NO_MISSING = "training saw no missing values in this column"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a model server with the mixed model."""
    folder = tmp_path_factory.mktemp("mixed")
    publish(folder / "flats")
    running = forked.start_model_server(
        folder / "log", "--model_name=flats", f"--model_base_path={folder / 'flats'}"
    )
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    yield running.address
    assert running.stop() == 0, running.output()


@pytest.fixture(scope="module")
def url(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("client") / "log"
    running = forked.start_client(log, server, CLIENT_MODEL="flats")
    yield running.address
    assert running.stop() == 0, running.output()


def post(url: str, body: Any) -> requests.Response:
    return requests.post(f"{url}/predict", data=json.dumps(body), timeout=30)


def request_forms(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield requests with `ROW` and this row in each form."""
    yield {"instances": [ROW, row]}
    yield {"instances": [[r[name] for name in NAMES] for r in (ROW, row)]}
    yield {"inputs": {name: [ROW[name], row[name]] for name in NAMES}}


@pytest.mark.parametrize(
    ("column", "value", "contribution"),
    [
        ("Age (years)", 1.5, 0.015),
        ("income", None, MISSING),
        ("city", " Zug", 2),
        ("city", "Ulm", UNKNOWN),
        ("district", "13", 2),
        ("district", 13, 2),
        ("district", 5, UNKNOWN),
        ("district", None, MISSING),
        ("garden", "true", 1),
        ("garden", False, 0),
        ("garden", "perhaps", UNKNOWN),
        ("garden", None, MISSING),
        ("rooms", 3, 0),
        ("rooms", 3.0, 0),
        ("district", 42.0, 1),
        ("rooms", 9007199254740993, 2),
        ("rooms", -1, UNKNOWN),
        ("balcony", False, 0),
    ],
)
def test_values_of_every_kind_reach_the_model_in_every_form(
    url: str, column: str, value: Any, contribution: float
) -> None:
    expected = list({**CONTRIBUTIONS, column: contribution}.values())
    for body in request_forms({**ROW, column: value}):
        explanation = post(url, {**body, "signature_name": "explain"})
        assert explanation.status_code == 200, explanation.text
        if "inputs" in body:
            contributions = explanation.json()["outputs"]["contribution"]
            logit = post(url, body).json()["outputs"]["logit"][1]
        else:
            contributions = [p["contribution"] for p in explanation.json()["predictions"]]
            logit = post(url, body).json()["predictions"][1]["logit"]
        np.testing.assert_allclose(
            contributions, [list(CONTRIBUTIONS.values()), expected], rtol=1e-6
        )
        assert logit == pytest.approx(sum(expected) + BIAS, rel=1e-5)


def test_nullable_columns_may_be_omitted(url: str) -> None:
    missing = dict.fromkeys(("income", "district", "garden"))
    explicit = {**ROW, **missing}
    omitted = {name: value for name, value in ROW.items() if name not in missing}
    responses = [post(url, {"instances": [ROW, row]}).json() for row in (explicit, omitted)]
    assert responses[0] == responses[1]
    assert responses[0]["predictions"][0] != responses[0]["predictions"][1]


TEXT = 'a string or {"b64": "..."}'


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("Age (years)", None, f"a number, got null; {NO_MISSING}"),
        ("Age (years)", "40", 'a number, got the string "40"'),
        ("Age (years)", True, "a number, got true"),
        ("income", "", 'a number, got the string ""'),
        ("city", None, f"{TEXT}, got null; {NO_MISSING}"),
        ("city", 5, f"{TEXT}, got 5"),
        ("city", True, f"{TEXT}, got true"),
        ("district", 42.5, f"{TEXT}, got 42.5"),
        ("district", False, f"{TEXT}, got false"),
        ("garden", 1, f"{TEXT}, got 1"),
        ("rooms", None, f"an integer, got null; {NO_MISSING}"),
        ("rooms", 3.5, "an integer, got 3.5"),
        ("rooms", "3", 'an integer, got the string "3"'),
        (
            "rooms",
            2**63,
            "an integer from -9223372036854775808 to 9223372036854775807, got 9223372036854775808",
        ),
        ("balcony", None, f"true or false, got null; {NO_MISSING}"),
        ("balcony", 1, "true or false, got 1"),
        ("balcony", "true", 'true or false, got the string "true"'),
    ],
)
def test_value_of_the_wrong_type_is_rejected_with_its_location(
    url: str, column: str, value: Any, expected: str
) -> None:
    locations = (f"instances[1].{column}", f"instances[1].{column}", f"inputs.{column}[1]")
    for location, body in zip(locations, request_forms({**ROW, column: value}), strict=True):
        response = post(url, body)
        assert response.status_code == 400
        assert response.json()["error"] == f"{location}: expected {expected}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"city": "Bern"}, 'column "Age (years)" (float32) is missing, and 2 more'),
        (
            {name: ROW[name] for name in NAMES if name != "rooms"},
            'column "rooms" (int64) is missing',
        ),
        (
            {**ROW, "Age": 3},
            'unknown column "Age"; the columns are '
            "Age (years), income, city, district, garden, rooms, balcony",
        ),
        (list(ROW.values())[:-1], f"expected 7 values in the order {', '.join(NAMES)}, got 6"),
    ],
)
def test_row_with_missing_or_unknown_columns_is_rejected(url: str, row: Any, message: str) -> None:
    response = post(url, {"instances": [row]})
    assert response.status_code == 400
    assert response.json()["error"] == f"instances[0]: {message}"


def predict_file(server: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = ["predict", str(file), "--model=flats", f"--server={server}"]
    return subprocess.run(
        [sys.executable, "-m", "client", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


HEADER = "Age (years),income,city,district,garden,rooms,balcony\n"


def test_csv_file_with_empty_cells_gets_the_same_predictions_as_json(
    server: str, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "flats.csv"
    file.write_text(
        HEADER
        + "40,350.0,Basel,42,true,2,true\n"
        + "40,,Basel,,,3,False\n"
        + "4e1, NA , Zug,NA,NA,-1,0\n"
        + "40,350.0,Basel,042,True,2,1\n"
    )
    result = predict_file(server, file)
    assert result.returncode == 0, result.stderr
    missing = dict.fromkeys(("income", "district", "garden"))
    rows = [
        ROW,
        {**ROW, **missing, "rooms": 3, "balcony": False},
        {**ROW, **missing, "city": " Zug", "rooms": -1, "balcony": False},
        {**ROW, "district": "unknown"},
    ]
    expected = post(url, {"instances": rows}).json()["predictions"]
    predictions = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["label"] for row in predictions] == [p["label"] for p in expected]
    np.testing.assert_allclose(
        [float(row["logit"]) for row in predictions], [p["logit"] for p in expected], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (",1,Bern,7,true,3,true", f'column "Age (years)": expected float32, got ""; {NO_MISSING}'),
        ("1,1,,7,true,3,true", f'column "city": expected string, got ""; {NO_MISSING}'),
        ("1,1,Bern,7,true,,true", f'column "rooms": expected int64, got ""; {NO_MISSING}'),
        ("1,1,Bern,7,true,3,", f'column "balcony": expected bool, got ""; {NO_MISSING}'),
        ("1,1,Bern,7,true,2.5,true", 'column "rooms": expected int64, got "2.5"'),
        ("1,1,Bern,7,true,3,maybe", 'column "balcony": expected bool, got "maybe"'),
        ("1,much,Bern,7,true,3,true", 'column "income": expected float32, got "much"'),
    ],
)
def test_unreadable_cell_is_reported_with_its_line(
    server: str, tmp_path: Path, cells: str, message: str
) -> None:
    file = tmp_path / "flats.csv"
    file.write_text(f"{HEADER}1,1,Bern,7,true,3,true\n{cells}\n")
    result = predict_file(server, file)
    assert result.returncode == 1
    assert result.stderr == f"Error: line 3, {message}\n"
    assert result.stdout == ""


@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[::-1]], ids=["same order", "reversed"])
def test_file_continues_with_a_new_version_only_if_its_columns_match(
    tmp_path: Path, starter: Starter, columns: Sequence[MixedColumn]
) -> None:
    publish(tmp_path / "flats")
    server = starter.model_server("--model_name=flats", f"--model_base_path={tmp_path / 'flats'}")
    processes.wait_for(lambda: processes.is_serving(server.address), "the model is loaded")
    line = b"40,350.0,Basel,42,true,2,true\n"
    command = ["predict", "-", "--format=csv", "--model=flats", f"--server={server.address}"]
    output = tmp_path / "output.csv"
    with (
        output.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "client", *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
        ) as running,
        ServingClient(server.address) as connection,
    ):
        assert running.stdin is not None
        running.stdin.write(HEADER.encode() + line * 80_000)
        running.stdin.flush()
        processes.wait_for(lambda: output.stat().st_size, "the first rows are predicted")
        publish(tmp_path / "flats", version=2, columns=columns)
        processes.wait_for(lambda: connection.schema("flats").version == 2, "version 2 is served")
        _, err = running.communicate(line * 40_000)
    if columns is COLUMNS:
        assert running.returncode == 0, err
        assert len(output.read_bytes().splitlines()) == 1 + 120_000
    else:
        assert running.returncode == 1
        message = (
            b"Error: version 1 of the model was replaced by version 2, which has other columns"
        )
        assert message in err


def test_row_with_a_missing_number_is_sent_once_when_the_version_changes(
    tmp_path: Path, starter: Starter
) -> None:
    publish(tmp_path / "flats")
    server = starter.model_server("--model_name=flats", f"--model_base_path={tmp_path / 'flats'}")
    processes.wait_for(lambda: processes.is_serving(server.address), "the model is loaded")
    calls: list[str] = []

    def read(schema: Schema) -> Call:
        return json_rows.read_document({"instances": [{**ROW, "income": None}]}, schema).call

    async def predict_until_version_2() -> None:
        version = 1
        async with AsyncServingClient(
            server.address, observe=lambda rpc, *_: calls.append(rpc)
        ) as connection:
            # The predictor does not poll: it learns of version 2 from a response.
            predictor = BatchedPredictor(Predictor(connection))
            while version == 1:
                calls.clear()
                _, prediction = await predictor.predict(Target("flats"), read, Deadline(5))
                version = prediction.version
                if not (tmp_path / "flats/2").exists():
                    publish(tmp_path / "flats", version=2)

    asyncio.run(predict_until_version_2())
    assert calls == ["Predict", "GetModelMetadata", "Predict"]  # the last one calls `describe`


def test_description_covers_every_column(server: str) -> None:
    with ServingClient(server) as connection:
        description = connection.schema("flats").description
    assert description is not None
    for column, published in zip(description.columns, COLUMNS, strict=True):
        for name in ("name", "kind", "vocabulary", "missing", "class_means", "class_modes"):
            assert getattr(column, name) == getattr(published, name)


def test_older_description_without_missing_values_and_modes_is_read(server: str) -> None:
    with ServingClient(server) as connection:
        query = {"query": np.zeros(1, np.int32)}
        describe = connection.schema("flats").signatures["describe"]
        response = connection.predict("flats", query, signature_name="describe", signature=describe)
        outputs = dict(response.outputs)
    del outputs["missing"], outputs["class_modes"]
    columns = Description.from_outputs(outputs).columns
    assert {column.name for column in columns if column.missing} == set()
    assert [column.class_modes for column in columns] == [(-1, -1)] * 2 + [(0, 0)] * 5
