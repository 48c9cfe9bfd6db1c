from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import psutil
import pytest
import tensorflow as tf

from tests.support.processes import ROOT, fit, free_port
from tests.training.test_interruption import Command
from tests.training.test_table import Exchange, ThreadWorkers
from training import pipeline
from training.data import datasets as builtin
from training.data import held_out
from training.data.reading import open_source
from training.data.table import Choice
from training.errors import WorkersError
from training.export.serving_module import export
from training.publishing import manifest
from training.publishing.saved_version import SavedVersion
from training.settings import FitSettings
from training.workers.collectives import (
    TensorFlowWorkers,
    Workers,
    cluster_config,
    resolve_cluster_config,
    wait_for_workers,
)
from training.workers.launch import join_workers

ROWS = 1000  # per file
OPTIONS = ("--label=churned", "--model=churn", "--columns=region=categorical")
# So many steps that the fit does not end by itself.
ENDLESS = ("--optimizer=gradient-descent", "--iterations=1000000", "--tolerance=0", "--l2=0")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in four files."""
    folder = tmp_path_factory.mktemp("parts")
    frame = builtin.customers(4 * ROWS)
    for number in range(4):
        frame[number * ROWS : (number + 1) * ROWS].write_csv(folder / f"{number}.csv")
    return folder


@pytest.fixture
def command(parts: Path, tmp_path: Path) -> Iterator[Command]:
    """A fit with two workers that has taken a few steps."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = Command(
        "fit",
        f"--models={tmp_path / 'models'}",
        f"--data={parts}",
        "--workers=2",
        *OPTIONS,
        *ENDLESS,
        TMPDIR=str(temporary),
    )
    try:
        command.wait_for_steps(20)
        yield command
    finally:
        command.close()


def describe(version: Path) -> dict[str, Any]:
    return SavedVersion(version).run("describe", {"query": np.zeros(1, np.int32)})


def theta_of(version: Path) -> npt.NDArray[np.float32]:
    stored = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    names = (f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("weights", "bias"))
    return np.concatenate([np.ravel(stored.get_tensor(name)) for name in names])


def test_two_workers_match_one(parts: Path, tmp_path: Path) -> None:
    options = (f"--data={parts}", *OPTIONS, "--workers=2", "--optimizer=newton", "--json")
    process = fit(tmp_path / "two", *options)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    choice = Choice("churned", kinds={"region": "categorical"})
    candidate = pipeline.fit(open_source(str(parts)), choice, FitSettings(optimizer="newton"))
    two_workers, one_worker = tmp_path / "two" / "churn" / "1", tmp_path / "one"
    export(candidate.model, one_worker)
    assert result["metrics"] == pytest.approx(candidate.model.metrics, abs=1e-5)
    assert result["rows"] == candidate.manifest.rows
    assert manifest.read(two_workers).data == candidate.manifest.data

    np.testing.assert_allclose(theta_of(two_workers), candidate.fit.theta, atol=1e-5)
    actual, expected = describe(two_workers), describe(one_worker)
    for fact in ("columns", "kinds", "vocabulary_values", "vocabulary_lengths", "class_modes"):
        np.testing.assert_array_equal(actual[fact], expected[fact])
    for fact in ("means", "deviations", "class_means"):
        np.testing.assert_allclose(actual[fact], expected[fact], rtol=1e-6)
    columns, references = (
        json.loads(facts["reference"][0])["columns"] for facts in (actual, expected)
    )
    # Each worker samples rows for the edges.
    for column, reference in zip(columns, references, strict=True):
        assert column["missing"] == pytest.approx(reference["missing"])
        assert column["shares"] == pytest.approx(reference["shares"], abs=0.01)
    rows = candidate.model.inputs(candidate.held_out.frame)
    probabilities, expected_probabilities = (
        SavedVersion(path).run("serving_default", rows)["probability"]
        for path in (two_workers, one_worker)
    )
    np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-5)


@pytest.mark.parametrize("parts", [("train", "test"), ("test", "train"), ("both", "both")])
def test_worker_may_have_no_training_or_no_held_out_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, str]
) -> None:
    monkeypatch.setattr(held_out, "MAX_CHECKED", 100)
    for number, part in enumerate(parts):  # a file for each worker
        column = pl.Series(["train", "test"] * 100) if part == "both" else pl.lit(part)
        frame = builtin.customers(200, seed=number).with_columns(part=column)
        frame.write_csv(tmp_path / f"{number}.csv")
    choice = Choice("churned", kinds={"region": "categorical"}, split_column="part")

    def fit_with(worker: Workers) -> pipeline.Candidate:
        return pipeline.fit(open_source(str(tmp_path)), choice, FitSettings(), workers=worker)

    exchange = Exchange(2)
    with ThreadPoolExecutor(2) as pool:
        candidate, _ = pool.map(lambda index: fit_with(ThreadWorkers(index, exchange)), range(2))
    rows, checked = candidate.held_out, 100 if parts == ("both", "both") else 50
    assert (len(rows), len(rows.expected.probabilities)) == (200, checked)
    np.testing.assert_array_equal(rows.expected.probabilities, rows.probabilities[:checked])
    columns = json.loads(candidate.model.reference)["columns"]
    assert all(column["contribution"] > 0 for column in columns)
    assert len(json.loads(candidate.model.golden)["probability"]) == 8

    single = fit_with(Workers()).held_out
    order = [single.keys.tolist().index(key) for key in rows.keys.tolist()]
    assert rows.frame.equals(single.frame[order])
    np.testing.assert_array_equal(rows.labels, single.labels[order])
    np.testing.assert_allclose(rows.probabilities, single.probabilities[order], atol=1e-5)


def test_error_in_files_of_second_worker_is_reported(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for file in sorted(parts.iterdir()):
        (folder / file.name).write_bytes(file.read_bytes())
    lines = (folder / "3.csv").read_text().splitlines()
    lines[-1] = "long" + lines[-1][lines[-1].index(",") :]
    (folder / "3.csv").write_text("\n".join(lines) + "\n")
    process = fit(tmp_path / "models", f"--data={folder}", *OPTIONS, "--workers=2")
    assert process.returncode == 1
    expected = (
        f"Error: {folder / '3.csv'} line {ROWS + 1}, column 'tenure': expected a number, got 'lo"
    )
    assert process.stderr.strip().splitlines()[-1].startswith(expected)
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "models").exists()


def test_killed_worker_ends_command_with_one_line(command: Command, tmp_path: Path) -> None:
    (other,) = psutil.Process(command.process.pid).children()
    # A sum must not start a thread, or the limit on threads is reached within seconds.
    before = psutil.Process(command.process.pid).num_threads()
    command.wait_for_steps(command.steps() + 200)
    assert psutil.Process(command.process.pid).num_threads() < before + 50
    other.send_signal(signal.SIGKILL)
    last = command.last_line(seconds=60)
    assert last.startswith("Error: another worker is gone: "), command.output()
    assert "{{" not in last
    assert command.process.returncode == 1
    assert "Traceback" not in command.output()
    assert not (tmp_path / "models").exists()


def test_signal_to_first_worker_stops_both(command: Command, tmp_path: Path) -> None:
    (other,) = psutil.Process(command.process.pid).children()
    command.process.send_signal(signal.SIGTERM)
    assert command.last_line(seconds=60).startswith("Interrupted: --resume continues after step ")
    assert command.process.returncode == 128 + signal.SIGTERM
    assert not other.is_running()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".churn.checkpoint"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_cluster_config_contains_own_index() -> None:
    assert json.loads(resolve_cluster_config("127.0.0.1", 7000, 1)) == {
        "cluster": {"worker": ["127.0.0.1:7000"]},
        "task": {"type": "worker", "index": 0},
    }


@pytest.mark.parametrize(("host", "count"), [("127.0.0.1", 1), ("a..b", 0)])
def test_missing_workers_are_reported(host: str, count: int) -> None:
    message = f"^{host} resolves to {count} instead of 2 addresses after 0.5 s$"
    with pytest.raises(WorkersError, match=message):
        resolve_cluster_config(host, 7000, 2, timeout=0.5)


def test_absent_worker_ends_the_others(parts: Path, tmp_path: Path) -> None:
    own_address, missing_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    started = time.monotonic()
    command = [sys.executable, "-m", "training", "fit", f"--models={tmp_path / 'models'}"]
    process = subprocess.run(
        [*command, f"--data={parts}", *OPTIONS, "--join-timeout=2"],
        env={**os.environ, "TF_CONFIG": cluster_config([own_address, missing_address], 0)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert time.monotonic() - started < 60  # most of it is spent starting TensorFlow
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last == f"Error: worker 1 at {missing_address} did not arrive within 2 s"
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_worker_listens_until_others_listen(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
        try:
            other.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no address {host}")
        own_port = free_port()
        addresses = [f"[{host}]:{port}" for port in (own_port, other.getsockname()[1])]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_workers, addresses, 0, 20)
            while True:
                with suppress(ConnectionRefusedError):
                    socket.create_connection((host, own_port)).close()
                    break
                assert not waiting.done()
                time.sleep(0.05)
            other.listen()
            waiting.result()


def test_port_in_use_is_reported() -> None:
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(WorkersError, match=r"^worker 0 cannot listen on port \d+: "):
            wait_for_workers([address], 0, timeout=1)


def test_address_of_another_machine_is_reported() -> None:
    with pytest.raises(
        WorkersError, match=r"^this machine has none of the addresses of 192\.0\.2\.1: "
    ):
        resolve_cluster_config("192.0.2.1", 7000, 1)


@pytest.mark.parametrize(
    "config",
    [
        *("", "{", "[]", "{}", '{"cluster": {"worker": []}}', "null"),
        cluster_config(["a:1"], 1),
        cluster_config(["a"], 0),
        cluster_config(["a:99999"], 0),
        cluster_config(["b:1"], 0).replace('{"worker', '{"chief": ["a:1"], "worker'),
        cluster_config(["b:1"], 0).replace('"type": "worker"', '"type": "chief"'),
    ],
)
def test_invalid_tf_config_is_rejected(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(WorkersError, match="TF_CONFIG: expected only workers at HOST:PORT"):
        TensorFlowWorkers()


def test_single_worker_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with join_workers(1, None) as team:
        assert (team.index, team.count) == (0, 1)
        assert team.gather({"a": 1}) == [{"a": 1}]
        assert "TF_CONFIG" not in os.environ
