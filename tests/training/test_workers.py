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
from training import pipeline as job
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

ROWS = 1000  # of each file
OPTIONS = ("--label=churned", "--model=churn", "--columns=region=categorical")
# So many steps that it does not end by itself.
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
    """A fit of two workers that has taken a few steps."""
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
        command.end()


def described(version: Path) -> dict[str, Any]:
    return SavedVersion(version).run("describe", {"query": np.zeros(1, np.int32)})


def theta_of(version: Path) -> npt.NDArray[np.float32]:
    stored = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    names = (f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("weights", "bias"))
    return np.concatenate([np.ravel(stored.get_tensor(name)) for name in names])


def test_two_workers_reach_the_result_of_one(parts: Path, tmp_path: Path) -> None:
    options = (f"--data={parts}", *OPTIONS, "--workers=2", "--optimizer=newton", "--json")
    done = fit(tmp_path / "two", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    choice = Choice("churned", kinds={"region": "categorical"})
    candidate = job.fit(open_source(str(parts)), choice, FitSettings(optimizer="newton"))
    two, one = tmp_path / "two" / "churn" / "1", tmp_path / "one"
    export(candidate.model, one)
    assert told["metrics"] == pytest.approx(candidate.model.metrics, abs=1e-5)
    assert told["rows"] == candidate.manifest.rows
    assert manifest.read(two).data == candidate.manifest.data

    np.testing.assert_allclose(theta_of(two), candidate.fit.theta, atol=1e-5)
    of_two, of_one = described(two), described(one)
    for fact in ("columns", "kinds", "vocabulary_values", "vocabulary_lengths", "class_modes"):
        np.testing.assert_array_equal(of_two[fact], of_one[fact])
    for fact in ("means", "deviations", "class_means"):
        np.testing.assert_allclose(of_two[fact], of_one[fact], rtol=1e-6)
    ours, theirs = (json.loads(told["reference"][0])["columns"] for told in (of_two, of_one))
    for our, their in zip(ours, theirs, strict=True):  # each worker samples rows for the edges
        assert our["missing"] == pytest.approx(their["missing"])
        assert our["shares"] == pytest.approx(their["shares"], abs=0.01)
    rows = candidate.model.inputs(candidate.held_out.frame)
    ours, theirs = (SavedVersion(d).run("serving_default", rows)["probability"] for d in (two, one))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("parts", [("train", "test"), ("test", "train"), ("both", "both")])
def test_a_worker_may_have_no_training_rows_or_no_held_out_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, str]
) -> None:
    monkeypatch.setattr(held_out, "MAX_CHECKED", 100)
    for number, part in enumerate(parts):  # a file for each worker
        part_of_row = pl.Series(["train", "test"] * 100) if part == "both" else pl.lit(part)
        frame = builtin.customers(200, seed=number).with_columns(part=part_of_row)
        frame.write_csv(tmp_path / f"{number}.csv")
    choice = Choice("churned", kinds={"region": "categorical"}, split_column="part")

    def fit_with(worker: Workers) -> job.Candidate:
        return job.fit(open_source(str(tmp_path)), choice, FitSettings(), workers=worker)

    exchange = Exchange(2)
    with ThreadPoolExecutor(2) as pool:
        found, _ = pool.map(lambda index: fit_with(ThreadWorkers(index, exchange)), range(2))
    rows, checked = found.held_out, 100 if parts == ("both", "both") else 50
    assert (len(rows), len(rows.expected.probabilities)) == (200, checked)
    np.testing.assert_array_equal(rows.expected.probabilities, rows.probabilities[:checked])
    described = json.loads(found.model.reference)["columns"]
    assert all(column["contribution"] > 0 for column in described)
    assert len(json.loads(found.model.golden)["probability"]) == 8

    alone = fit_with(Workers()).held_out
    places = [alone.keys.tolist().index(key) for key in rows.keys.tolist()]
    assert rows.frame.equals(alone.frame[places])
    np.testing.assert_array_equal(rows.labels, alone.labels[places])
    np.testing.assert_allclose(rows.probabilities, alone.probabilities[places], atol=1e-5)


def test_an_error_in_the_second_worker_s_files_is_reported(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for file in sorted(parts.iterdir()):
        (folder / file.name).write_bytes(file.read_bytes())
    lines = (folder / "3.csv").read_text().splitlines()
    lines[-1] = "long" + lines[-1][lines[-1].index(",") :]
    (folder / "3.csv").write_text("\n".join(lines) + "\n")
    done = fit(tmp_path / "models", f"--data={folder}", *OPTIONS, "--workers=2")
    assert done.returncode == 1
    said = f"Error: {folder / '3.csv'} line {ROWS + 1}, column 'tenure': expected a number, got 'lo"
    assert done.stderr.strip().splitlines()[-1].startswith(said)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_worker_that_is_killed_ends_the_command_with_one_line(
    command: Command, tmp_path: Path
) -> None:
    (other,) = psutil.Process(command.process.pid).children()
    # No thread for each sum: it would take seconds until no more can be started.
    before = psutil.Process(command.process.pid).num_threads()
    command.wait_for_steps(command.steps() + 200)
    assert psutil.Process(command.process.pid).num_threads() < before + 50
    other.send_signal(signal.SIGKILL)
    last = command.last_line(seconds=60)
    assert last.startswith("Error: another worker is gone: "), command.seen()
    assert "{{" not in last
    assert command.process.returncode == 1
    assert "Traceback" not in command.seen()
    assert not (tmp_path / "models").exists()


def test_a_signal_for_the_first_of_two_workers_stops_both(command: Command, tmp_path: Path) -> None:
    (other,) = psutil.Process(command.process.pid).children()
    command.process.send_signal(signal.SIGTERM)
    assert command.last_line(seconds=60).startswith("Interrupted: --resume continues after step ")
    assert command.process.returncode == 128 + signal.SIGTERM
    assert not other.is_running()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".churn.checkpoint"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_this_machine_finds_its_place_among_the_workers() -> None:
    assert json.loads(resolve_cluster_config("127.0.0.1", 7000, 1)) == {
        "cluster": {"worker": ["127.0.0.1:7000"]},
        "task": {"type": "worker", "index": 0},
    }


@pytest.mark.parametrize(("host", "found"), [("127.0.0.1", 1), ("a..b", 0)])
def test_missing_workers_are_reported(host: str, found: int) -> None:
    message = f"^{host} resolves to {found} instead of 2 addresses after 0.5 s$"
    with pytest.raises(WorkersError, match=message):
        resolve_cluster_config(host, 7000, 2, timeout=0.5)


def test_a_worker_that_never_arrives_ends_the_others(parts: Path, tmp_path: Path) -> None:
    ours, missing = (f"127.0.0.1:{free_port()}" for _ in range(2))
    started = time.monotonic()
    command = [sys.executable, "-m", "training", "fit", f"--models={tmp_path / 'models'}"]
    done = subprocess.run(
        [*command, f"--data={parts}", *OPTIONS, "--join-timeout=2"],
        env={**os.environ, "TF_CONFIG": cluster_config([ours, missing], 0)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert time.monotonic() - started < 60  # most of it is TensorFlow's start
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"Error: worker 1 at {missing} did not arrive within 2 s"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_listens_until_the_others_do(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
        try:
            other.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no address {host}")
        ours = free_port()
        addresses = [f"[{host}]:{port}" for port in (ours, other.getsockname()[1])]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_workers, addresses, 0, 20)
            while True:
                with suppress(ConnectionRefusedError):
                    socket.create_connection((host, ours)).close()
                    break
                assert not waiting.done()
                time.sleep(0.05)
            other.listen()
            waiting.result()


def test_a_taken_port_is_reported() -> None:
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkersError, match=r"^worker 0 cannot listen on port \d+: "):
            wait_for_workers([address], 0, timeout=1)


def test_an_unknown_host_is_reported() -> None:
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
def test_a_tf_config_without_workers_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(WorkersError, match="TF_CONFIG: expected only workers at HOST:PORT"):
        TensorFlowWorkers()


def test_one_worker_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with join_workers(1, None) as team:
        assert (team.index, team.count) == (0, 1)
        assert team.gather({"a": 1}) == [{"a": 1}]
        assert "TF_CONFIG" not in os.environ
