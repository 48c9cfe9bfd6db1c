from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import requests

from tests.support.processes import ROOT, free_port
from tests.support.tables import breast_cancer

TABLE = breast_cancer()
ROWS = TABLE.features[:2]


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def as_csv(rows: np.ndarray) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(TABLE.columns)
    writer.writerows(rows.tolist())
    return out.getvalue()


def test_csv_predictions_match_those_over_http(
    model_server: str, client_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(as_csv(TABLE.features[:5]))
    completed = run("predict", str(file), f"--server={model_server}")
    assert completed.returncode == 0, completed.stderr
    rows = list(csv.DictReader(io.StringIO(completed.stdout)))
    body = {"instances": TABLE.features[:5].tolist()}
    expected = requests.post(f"{client_url}/predict", json=body, timeout=10).json()["predictions"]
    assert [row["label"] for row in rows] == [p["label"] for p in expected]
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], [p["probability"] for p in expected], rtol=1e-6
    )


def test_byte_order_mark_and_signature_name_are_accepted(model_server: str) -> None:
    completed = run("predict", "-", f"--server={model_server}", stdin="\ufeff" + as_csv(ROWS))
    assert completed.returncode == 0, completed.stderr
    explain = json.dumps({"signature_name": "explain", "instances": ROWS.tolist()})
    completed = run("predict", "-", f"--server={model_server}", stdin=explain)
    assert len(json.loads(completed.stdout)[0]["contribution"]) == 30


@pytest.mark.parametrize("wrapped", [False, True])
def test_json_from_standard_input(model_server: str, wrapped: bool) -> None:
    rows = TABLE.features[:3].tolist()
    stdin = json.dumps({"instances": rows} if wrapped else rows)
    completed = run("predict", "-", stdin=stdin, CLIENT_SERVER=model_server)
    assert completed.returncode == 0, completed.stderr
    assert [p["label"] for p in json.loads(completed.stdout)] == ["malignant"] * 3


def test_large_file_is_sent_in_batches_with_progress(model_server: str) -> None:
    rows = np.tile(TABLE.features, (5, 1))
    completed = run("predict", "-", f"--server={model_server}", stdin=as_csv(rows))
    assert completed.returncode == 0, completed.stderr
    predictions = list(csv.DictReader(io.StringIO(completed.stdout)))
    assert len(predictions) == len(rows) == 2845
    assert predictions[:569] == predictions[569:1138]
    assert "predict" in completed.stderr


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "jsonl", "npy", "arrow", "none"])
def test_format_is_detected_by_file_name_or_first_bytes(
    model_server: str, tmp_path: Path, suffix: str
) -> None:
    frame = pl.DataFrame(dict(zip(TABLE.columns, ROWS.T, strict=True)))
    out = io.BytesIO()
    if suffix == "npy":
        np.save(out, ROWS)
    elif suffix == "arrow":
        frame.write_ipc_stream(out)
    elif suffix == "csv":
        frame.write_csv(out)
    else:
        frame.write_ndjson(out)
    named, unnamed = tmp_path / f"rows.{suffix}", tmp_path / "rows"
    for file in (named, unnamed):
        file.write_bytes(out.getvalue())
        command = [sys.executable, "-m", "client", "predict", str(file), f"--server={model_server}"]
        completed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert completed.returncode == 0, completed.stderr
        output = io.BytesIO(completed.stdout)
        if suffix == "npy":
            labels = np.load(output)["label"].astype(str).tolist()
        elif suffix == "arrow":
            labels = pl.read_ipc_stream(output)["label"].to_list()
        elif suffix == "csv":
            labels = pl.read_csv(output)["label"].to_list()
        else:
            labels = [json.loads(line)["label"] for line in output]
        assert labels == ["malignant", "malignant"]


def test_memory_does_not_grow_with_the_file_size(model_server: str, tmp_path: Path) -> None:
    """70 MB of CSV needs little more memory than 100 kB."""
    peaks = []
    header, *lines = as_csv(TABLE.features).splitlines(keepends=True)
    for times in (1, 600):
        file = tmp_path / f"{times}.csv"
        with file.open("w", newline="") as out:
            out.write(header)
            for _ in range(times):
                out.writelines(lines)
        # The peak is that of the parent's largest child, so each command gets its own parent.
        program = (
            "import resource, subprocess, sys; "
            "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
        )
        command = [sys.executable, "-m", "client", "predict", str(file), f"--server={model_server}"]
        completed = subprocess.run(
            [sys.executable, "-c", program, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        peaks.append(int(completed.stdout))
    assert file.stat().st_size > 70e6
    assert peaks[1] - peaks[0] < 40_000, peaks  # kB


HEADER = ",".join(TABLE.columns)
ONES = ",".join("1" * 29)


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", 'line 1: column "mean_radius" is missing, and 29 more'),
        (f"{HEADER}\n", "expected at least one row, got none"),
        (f"{HEADER}\nx,{ONES}\n", 'line 2, column "mean_radius": expected float32, got "x"'),
        (f"{HEADER}\n1,{ONES}\nnone,{ONES}\n", 'line 3, column "mean_radius": expected float32'),
        (f"{HEADER}\n1_000,{ONES}\n", 'expected float32, got "1_000"'),
        (f"{HEADER}\n٣,{ONES}\n", 'expected float32, got "٣"'),
        ('"a"b,c\n', "line 1: "),
        ('{"signature_name": "x", "instances": [[1]]}', 'has no "x"'),
        (f"{HEADER}\n1,2\n", "line 2: expected 30 cells as in the header"),
        (f"{HEADER},extra\n", 'line 1: unknown column "extra"; the columns are mean_radius,'),
        (f"{HEADER},mean_radius\n", 'line 1: duplicate column "mean_radius"'),
        ("[[1]]", "instances[0]: expected 30 values"),
        ("[", "not JSON: "),
        ('{"rows":\n []}', "expected a list of rows or"),
        ('{"rows": []}', 'line 1: unknown column "rows"'),
        ('{"mean_radius": 1}\n', 'line 1: column "mean_texture" (float32) is missing'),
        ("[]", "expected at least one row"),
    ],
)
def test_errors_name_the_line_and_column(model_server: str, stdin: str, message: str) -> None:
    completed = run("predict", "-", f"--server={model_server}", stdin=stdin)
    assert completed.returncode == 1
    assert message in completed.stderr
    assert completed.stdout == ""
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nosuch.csv"], "No such file"),
        (["predict", "-", "--model=nosuch"], "Servable not found for request: Latest(nosuch)"),
        (["predict", "-", "--version=9"], "Specific(breast_cancer, 9)"),
        (["predict", "-", "--version=1", "--label=a"], "exclude each other"),
        (["predict", "-", f"--version={2**70}"], "is not in the range"),
        (["predict", "-", "--timeout=1e10"], "is not in the range"),
        (["serve", "--host=nosuch.invalid"], "cannot listen on nosuch.invalid:8080"),
        (["serve", "--port=99999"], "CLIENT_PORT: Input should be less than or equal to 65535"),
    ],
)
def test_invalid_arguments_are_reported(
    model_server: str, arguments: list[str], message: str
) -> None:
    completed = run(*arguments, stdin="[[1]]", CLIENT_SERVER=model_server)
    assert completed.returncode != 0
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr


def test_unreachable_model_server_is_reported() -> None:
    server = f"127.0.0.1:{free_port()}"
    completed = run("predict", "-", f"--server={server}", stdin="[[1]]")
    assert completed.returncode == 1
    assert f"the model server at {server} cannot be reached" in completed.stderr


def test_port_in_use_is_a_one_line_error(client_url: str) -> None:
    port = client_url.rpartition(":")[2]
    completed = run("serve", f"--port={port}")
    assert completed.returncode == 1
    assert completed.stderr == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize("command", [[], ["serve"], ["predict"]])
def test_help(command: list[str]) -> None:
    completed = run(*command, "--help")
    assert completed.returncode == 0
    assert "Usage: python -m client" in completed.stdout
