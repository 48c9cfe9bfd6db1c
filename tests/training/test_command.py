from __future__ import annotations

import gzip
import html
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tensorflow as tf
from click.testing import CliRunner, Result
from rich.console import Console
from rich.progress import Progress
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

from tests.support.processes import ROOT, fit, training
from tests.support.tables import fit_table
from training.__main__ import main
from training.cli.progress import show_progress
from training.evaluation.metric_names import METRICS
from training.publishing import manifest
from training.publishing.versions import publish, versions
from training.settings import FitSettings

NEWTON = "--optimizer=newton"


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
    """Restore the signal handlers that a command run in this process installs."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def run(*arguments: str) -> Result:
    """Run a command in this process, so that TensorFlow is imported only once."""
    return CliRunner().invoke(main, arguments, prog_name="python -m training")


def stderr_text(result: Result) -> str:
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """A models directory with one version, TensorBoard logs, and the command's result."""
    models, logs = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("logs")
    return models, logs, run("fit", f"--models={models}", NEWTON, "--json", f"--tensorboard={logs}")


@pytest.fixture
def models(published: tuple[Path, Path, Result], tmp_path: Path) -> Path:
    """A copy of the models directory that a test may change."""
    return Path(shutil.copytree(published[0], tmp_path / "models"))


def test_fit_shows_progress_and_prints_version_path(tmp_path: Path) -> None:
    process = fit(tmp_path, "--iterations=100")
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{tmp_path / 'breast_cancer' / '1'}\n"
    for text in ("569 rows, 30 columns", "395 to train on", "0.693147", *METRICS):
        assert text in process.stderr
    assert "Traceback" not in process.stderr
    report = (tmp_path / "breast_cancer" / "1" / "report.html").read_text()
    assert "malignant" in report
    assert "mean_radius" in report
    assert report.rstrip().endswith("</html>")


def test_json_result_has_metrics_intervals_and_verdict(
    published: tuple[Path, Path, Result],
) -> None:
    models, _, command = published
    assert command.exit_code == 0, command.output
    (line,) = command.stdout.splitlines()
    result = json.loads(line)
    version = models / "breast_cancer" / "1"
    stored = json.loads((version / "manifest.json").read_text())
    fields = ("trained_at", "rows", "fit", "threshold", "metrics", "intervals", "warnings", "gate")
    assert {key: result[key] for key in fields} == {key: stored[key] for key in fields}
    assert (result["model"], result["version"]) == ("breast_cancer", 1)
    assert (result["path"], result["report"]) == (str(version), str(version / "report.html"))
    assert (result["label"], result["class_names"]) == ("diagnosis", ["malignant", "benign"])
    assert result["columns"][0] == {
        "name": "mean_radius",
        "kind": "numeric",
        "reason": unittest.mock.ANY,
    }
    assert result["metrics"].keys() == result["intervals"].keys() == set(METRICS)
    assert result["gate"]["passed"] is True


def test_tensorboard_reads_costs_and_graph(published: tuple[Path, Path, Result]) -> None:
    models, logs, _ = published
    events = event_accumulator.EventAccumulator(str(logs), size_guidance={"tensors": 0})
    events.Reload()
    summary = manifest.read(models / "breast_cancer" / "1").fit
    costs = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("cost")]
    assert [event.step for event in events.Tensors("cost")] == list(range(len(costs)))
    assert len(costs) == summary.steps + 1
    assert costs[0] == pytest.approx(0.693147, abs=1e-5)
    assert costs[-1] == pytest.approx(summary.cost, abs=1e-6)
    assert "Sigmoid" in {node.op for node in events.Graph().node}


def test_refusal_is_in_json_and_on_last_line_of_stderr(models: Path) -> None:
    options = (f"--models={models}", "--optimizer=gradient-descent", "--iterations=2")
    refused = run("fit", *options, "--quiet", "--json")
    assert refused.exit_code == 3
    reason = json.loads(refused.stdout)["refused"]
    assert reason.startswith("log_loss 0.2")
    assert "is worse than the published version's" in reason
    warning, last = refused.stderr.splitlines()
    assert warning.startswith("Warning: not converged: ")
    assert last == f"Refused: {reason}"
    assert versions(models / "breast_cancer") == [1]

    plain = run("fit", *options, "--floor", "accuracy=0.5,auc=0.999")
    assert plain.exit_code == 3
    assert plain.stdout == ""
    assert plain.stderr.splitlines()[-1].startswith("Refused: auc 0.9")
    assert plain.stderr.splitlines()[-1].endswith("is below its floor 0.999")


def test_versions_rollback_and_verify_commands(models: Path) -> None:
    folder = models / "breast_cancer"
    forced = training(
        "fit", models, "--optimizer=gradient-descent", "--iterations=2", "--force", "--quiet"
    )
    assert forced.returncode == 0
    assert forced.stdout == f"{folder / '2'}\n"
    warning, notice = forced.stderr.splitlines()
    assert warning.startswith("Warning: not converged: after 2 iterations, the largest derivative ")
    assert warning.endswith("use more --iterations or --optimizer lbfgs")
    assert notice.startswith("Forced: log_loss ")

    models_option = f"--models={models}"
    lines = run("versions", models_option).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert all(f"{name} 0." in line for line in lines for name in ("accuracy", "auc", "log_loss"))
    assert "forced" not in lines[0]
    assert "forced: log_loss " in lines[1]

    rollback = run("rollback", models_option)
    assert rollback.exit_code == 0, rollback.stderr
    assert rollback.stdout == f"{folder / '3'}\n"
    assert rollback.stderr.startswith("Rolled back from version 2 to version 1, trained ")
    assert rollback.stderr.endswith("published as version 3. To undo: rollback --to 2\n")
    entries = [
        json.loads(line) for line in run("versions", models_option, "--json").stdout.splitlines()
    ]
    assert [entry["version"] for entry in entries] == [1, 2, 3]
    assert [entry.get("rollback_to") for entry in entries] == [None, None, 1]
    assert [entry["gate"]["forced"] for entry in entries] == [False, True, False]
    assert entries[2]["metrics"] == entries[0]["metrics"]
    assert "rollback to 1" in run("versions", models_option).stdout.splitlines()[2]
    first, third = (json.loads((folder / v / "manifest.json").read_text()) for v in "13")
    assert first["files"] == third["files"]

    intact = run("verify", models_option)
    assert intact.exit_code == 0
    assert intact.stdout.count("7 files as published") == 3
    (folder / "1" / "saved_model.pb").write_bytes(b"x")
    assert run("verify", models_option, "3").exit_code == 0
    damaged = run("verify", models_option)
    assert damaged.exit_code == 1
    assert damaged.stderr.startswith(f"Error: {folder / '1' / 'saved_model.pb'}: SHA-256 is ")
    refused = run("rollback", models_option, "--to=1")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: cannot roll back to version 1: ")
    unknown = run("rollback", models_option, "--to=9").stderr
    assert unknown == f"Error: {folder} has no version 9; it has 1, 2, 3\n"
    assert run("verify", models_option, "9").exit_code == 1
    assert versions(folder) == [1, 2, 3]
    assert [path.name for path in models.iterdir()] == ["breast_cancer"]


def test_repeated_rollbacks_go_further_back(tmp_path: Path) -> None:
    folder, models_option = tmp_path / "breast_cancer", f"--models={tmp_path}"
    for number in range(1, 4):
        publish_files(tmp_path, f"contents of {number}")

    def contents(number: int) -> str:
        return (folder / str(number) / "saved_model.pb").read_text()

    def rollback(*options: str) -> str:
        result = run("rollback", models_option, *options)
        assert result.exit_code == 0, result.output
        return result.stderr

    assert rollback().startswith("Rolled back from version 3 to version 2, ")
    assert rollback().startswith("Rolled back from version 4 (a copy of 2) to version 1, ")
    assert [contents(n) for n in (4, 5)] == ["contents of 2", "contents of 1"]
    failed = run("rollback", models_option)
    assert failed.exit_code == 1
    assert failed.stderr == (
        f"Error: {folder} has no version before 1 (version 5 is a copy of it); "
        "--to takes any of 1, 2, 3, 4, 5\n"
    )
    assert rollback("--to=4").startswith("Rolled back from version 5 (a copy of 1) to version 2")
    assert contents(6) == "contents of 2"

    publish_files(tmp_path, "contents of 7")
    assert rollback().startswith("Rolled back from version 7 to version 2, ")
    assert rollback().startswith("Rolled back from version 8 (a copy of 2) to version 1, ")
    assert contents(9) == "contents of 1"


def publish_files(models: Path, contents: str) -> None:
    def write(directory: Path) -> None:
        (directory / "saved_model.pb").write_text(contents)
        manifest.write(directory, manifest.Manifest(trained_at="today"))

    publish(write, models, "breast_cancer")


def test_schema_changes_and_missing_comparisons_are_reported(models: Path, tmp_path: Path) -> None:
    options = (f"--models={models}", NEWTON, "--quiet", "--leave-out=mean_radius")
    refused = run("fit", *options, "--force")
    assert refused.exit_code == 3
    assert refused.stderr == (
        "Refused: callers of version 1 would break: column 'mean_radius' is dropped. "
        "--allow-schema-change publishes the candidate anyway\n"
    )
    result = run("fit", *options, "--allow-schema-change", "--json")
    assert result.exit_code == 0, result.output
    gate = json.loads(result.stdout)["gate"]
    assert gate["schema_changes"] == ["column 'mean_radius' is dropped"]
    assert gate["not_compared"] == "version 1: the columns or classes are not the same"
    assert result.stderr.splitlines() == [
        "Schema change: column 'mean_radius' is dropped",
        f"Not compared with the published version: {gate['not_compared']}",
    ]
    page = (models / "breast_cancer" / "2" / "report.html").read_text()
    for line in result.stderr.splitlines():
        assert html.escape(line, quote=False).replace("'", "&#39;") in page
    assert "column 'mean_radius' is dropped" in run("versions", f"--models={models}").stdout


def test_learning_rate_and_stopping_reason_are_reported(models: Path) -> None:
    options = ("--optimizer=gradient-descent", "--iterations=1500", "--gate-tolerance=1")
    result = run("fit", f"--models={models}", *options)
    assert result.exit_code == 0, result.output
    version = models / "breast_cancer" / "2"
    summary = manifest.read(version).fit
    assert summary.learning_rate is not None
    page = (version / "report.html").read_text()
    rate = f"learning rate {summary.learning_rate:.4g}"
    assert rate in result.stderr
    assert rate in page
    for text in (stderr_text(result), page):
        assert "not converged: after 1,500 iterations, the largest derivative" in text
    assert "compared with version 1 on 174 rows new to both: accuracy 0.9" in stderr_text(result)
    assert f"Report: {version / 'report.html'}" in result.stderr


def test_default_settings_converge(tmp_path: Path) -> None:
    for table in ("breast_cancer", "customers"):
        command = run("fit", f"--models={tmp_path}", f"--data={table}", "--json", "--quiet")
        result = json.loads(command.stdout)
        assert result["fit"]["converged"], table
        assert result["warnings"] == [], table


def test_keep_removes_older_versions(models: Path) -> None:
    result = run("fit", f"--models={models}", NEWTON, "--keep=1", "--quiet")
    assert result.stdout == f"{models / 'breast_cancer' / '2'}\n"
    assert versions(models / "breast_cancer") == [2]
    assert [path.name for path in models.iterdir()] == ["breast_cancer"]


def test_unless_published_skips_training_if_version_exists(models: Path) -> None:
    version, command = models / "breast_cancer" / "1", ("fit", f"--models={models}")
    result = run(*command, "--unless-published")
    assert result.exit_code == 0
    assert result.stdout == f"{version}\n"
    assert result.stderr.splitlines() == [
        f"{version.parent} has version 1; nothing to train",
        f"Report: {version / 'report.html'}",
    ]
    (version / "report.html").unlink()
    result = run(*command, "--unless-published", "--quiet", "--json")
    assert json.loads(result.stdout) == {
        "model": "breast_cancer",
        "version": 1,
        "path": str(version),
        "report": None,
    }
    assert result.stderr == ""
    assert versions(version.parent) == [1]


def test_progress_total_is_known_only_while_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Progress] = []

    def progress(*columns: Any, **options: Any) -> Progress:
        bars.append(Progress(*columns, **options))
        return bars[0]

    monkeypatch.setattr("training.cli.progress.Progress", progress)
    with show_progress(Console(file=io.StringIO()), FitSettings(iterations=7)) as observer:
        totals = []
        for stage in ("reading", "fitting", "evaluating"):
            observer.stage(stage)
            totals.append(bars[0].tasks[0].total)
    assert totals == [None, 7, None]


def test_sgd_costs_are_numbered_by_epoch_from_1() -> None:
    settings = FitSettings(optimizer="sgd", iterations=3)
    output = io.StringIO()
    with show_progress(Console(file=output, width=200), settings) as observer:
        observer.evaluated(fit_table(settings))
    rows = [re.findall(r"[\w.]+", line) for line in output.getvalue().splitlines()]
    start = rows.index(["epoch", "cost"])
    assert [row[0] for row in rows[start:] if len(row) == 2][:4] == ["epoch", "1", "2", "3"]


TABLE = ("--data=rows.csv", "--label=y", "--model=m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--held-out=1.5"], "'--held-out': 1.5 is not in the range 0<x<1"),
        (
            [*TABLE, "--date-format=%e %b %Y"],
            "--date-format: expected %Y or %y, and optionally %m",
        ),
        ([*TABLE, "--date-format=%H:%M"], "--date-format: expected %Y or %y, and optionally %m"),
        (["--held-out=nan"], "'--held-out': expected a finite number, got nan"),
        (["--momentum=nan"], "'--momentum': expected a finite number, got nan"),
        (["--join-timeout=nan"], "'--join-timeout': expected a finite number, got nan"),
        (["--batch-size=3000000000"], "'--batch-size': 3000000000 is not in the range 1<=x<="),
        (["--seed=-1"], "'--seed': -1 is not in the range"),
        (["--iterations=none"], "'--iterations': 'none' is not a valid integer"),
        (["--iterations=0"], "'--iterations': 0 is not in the range x>=1"),
        (["--optimizer=adam"], "'--optimizer': 'adam' is not one of 'gradient-descent', 'sgd'"),
        (["--model=../elsewhere"], "--model: '../elsewhere' cannot name a directory"),
        (["--model=.hidden"], "--model: '.hidden' cannot name a directory"),
        (["--model="], "--model: '' cannot name a directory"),
        ([f"--model={'a' * 300}"], "cannot name a directory"),
        (["--l2=nan"], "'--l2': expected a finite number, got nan"),
        (["--l2=-1"], "'--l2': -1.0 is not in the range x>=0"),
        (["--gate-tolerance=inf"], "'--gate-tolerance': expected a finite number, got inf"),
        (["--learning-rate=0"], "'--learning-rate': 0.0 is not in the range x>0"),
        (["--learning-rate=inf"], "'--learning-rate': expected a finite number, got inf"),
        (["--columns=age"], "'--columns': expected NAME=VALUE, got 'age'"),
        (["--columns==numeric"], "'--columns': expected NAME=VALUE, got '=numeric'"),
        (
            ["--columns=a=numeric,age=text"],
            "'age=text': expected one of numeric, categorical, boolean, date, got 'text'",
        ),
        *(
            (
                ["--label=y", "--columns=c=date", f"{option}=c"],
                "--columns: column 'c' is not a feature but ",
            )
            for option in ("--label", "--weight", "--split-column")
        ),
        (["--floor=auc"], "'--floor': expected NAME=VALUE, got 'auc'"),
        (["--floor=speed=1"], f"'speed=1': expected one of {', '.join(METRICS)}, got 'speed'"),
        (["--floor=auc=high"], "'--floor': 'auc=high': expected a finite number, got 'high'"),
        (["--floor=auc=nan"], "'--floor': 'auc=nan': expected a finite number, got 'nan'"),
        (["--memory=lots"], "'--memory': expected a size like 500MB or 2GB, got 'lots'"),
        (["--memory=1.2.3GB"], "'--memory': expected a size like 500MB or 2GB, got '1.2.3GB'"),
        (["--memory=.GB"], "'--memory': expected a size like 500MB or 2GB, got '.GB'"),
        (["--memory=1\u212a"], "'--memory': expected a size like 500MB or 2GB, got '1\u212a'"),
        (["--memory=-1"], "'--memory': expected a size like 500MB or 2GB, got '-1'"),
        ([f"--memory={'9' * 400}"], "'--memory': expected a size like 500MB or 2GB, got '999"),
        (["--threshold=1"], "'--threshold': expected a number between 0 and 1, or f1 or youden"),
        (["--threshold=best"], "or f1 or youden, got 'best'"),
        (["--threshold=nan"], "or f1 or youden, got 'nan'"),
        (["--rendezvous=host"], "'--rendezvous': expected HOST:PORT, got 'host'"),
        (["--rendezvous=:80"], "'--rendezvous': expected HOST:PORT, got ':80'"),
        (["--rendezvous=host:0"], "'--rendezvous': expected HOST:PORT, got 'host:0'"),
        (["--rendezvous=host:65536"], "'--rendezvous': expected HOST:PORT, got 'host:65536'"),
        (["--rendezvous=host:²"], "'--rendezvous': expected HOST:PORT, got 'host:²'"),
        (["--class-weight=yes"], "--class-weight: expected NAME=VALUE, got 'yes'"),
        (["--class-weight=yes=0"], "--class-weight: 'yes': expected a factor above 0, got 0"),
        (["--class-weight=yes=x"], "--class-weight: 'yes=x': expected a finite number, got 'x'"),
        (
            ["--class-weight=balanced", "--class-weight=yes=2"],
            "--class-weight: expected either balanced or factors, got both",
        ),
        (["--data=rows.csv", "--model=m"], "--label is needed: the column to predict"),
        (["--data=rows.csv", "--label=y"], "--model is needed: the name to publish under"),
        (["--data=dir/x.csv", "--label=y", "--model="], "--model: '' cannot name a directory"),
        (["--momentum=0.5"], "--momentum is for --optimizer sgd, not for lbfgs"),
        ([NEWTON, "--batch-size=8"], "--batch-size is for --optimizer sgd, not for newton"),
        (["--optimizer=lbfgs", "--l1=1"], "--l1 is for --optimizer sgd, not for lbfgs"),
        (
            [NEWTON, "--learning-rate=0.1"],
            "--learning-rate is for --optimizer gradient-descent or sgd, not for newton",
        ),
        (["--optimizer=sgd", "--workers=2"], "--workers: sgd runs in one process because "),
        (
            [*TABLE, "--data=-", "--workers=2"],
            "--workers: only one process can read standard input",
        ),
        (["--test-data=-", "--workers=2"], "--workers: only one process can read standard input"),
        (["--rendezvous=host:80"], "--rendezvous needs --workers, the total number of workers"),
        (
            ["--test-data=-", "--split-time=t"],
            "give only one of --test-data, --split-column and --split-time",
        ),
        ([*TABLE, "--data=-", "--test-data=-"], "--data: standard input can be read only once"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_invalid_option_is_reported_with_value_and_expectation(
    tmp_path: Path, options: list[str], message: str
) -> None:
    result = run("fit", f"--models={tmp_path}", *options)
    assert result.exit_code == 2, result.output
    option = re.compile("'(--[a-z0-9-]+)'")  # click quotes only some of them
    assert option.sub(r"\1", message) in option.sub(r"\1", stderr_text(result))
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_invalid_option_in_new_process_exits_with_status_2(tmp_path: Path) -> None:
    process = fit(tmp_path, "--memory=.", "--threshold=2")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("Error: Invalid value for '--")
    assert "Traceback" not in process.stderr


ROWS = "a,y\n" + "1,no\n2,yes\n3,no\n4,yes\n" * 20


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "{path}: no such file, directory or built-in table"),
        ("", [], "{path}: "),
        ("1,2\n3,4\n", [], "{path} line 1: expected the names of the columns, got numbers"),
        (ROWS, ["--label=z"], "--label: {path} has no column 'z'; it has a, y"),
        (ROWS, ["--leave-out=z"], "--leave-out: {path} has no column 'z'; it has a, y"),
        (ROWS, ["--positive=maybe"], "--positive: column 'y' has the values 'no' and 'yes', not "),
        (ROWS, ["--class-weight=maybe=2"], "--class-weight: the classes are 'no' and 'yes', not "),
        (ROWS + "5,perhaps\n", [], "{path} line 82, column 'y': expected a label with two values"),
        (ROWS + "x,yes\n", ["--columns=a=numeric"], "{path} line 82, column 'a': expected a numb"),
        (ROWS + "5\n", [], "{path} line 82: expected 2 fields as in the header, got 1"),
        ("a,y\n1,yes\n2,no\n", [], "no training row has class 'yes' (training rows: 1 of 2); "),
        (
            ROWS,
            ["--optimizer=gradient-descent", "--learning-rate=1e308"],
            "the cost diverged at iteration ",
        ),
    ],
)
def test_data_error_is_reported_in_one_line(
    tmp_path: Path, content: str | None, options: list[str], message: str
) -> None:
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_text(content)
    required = (f"--models={tmp_path / 'models'}", f"--data={path}", "--label=y", "--model=m")
    result = run("fit", *required, "--quiet", *options)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1, result.stderr
    line = result.stderr.rstrip()
    assert line.startswith(f"Error: {message.format(path=path)}")
    assert result.stdout == ""
    assert not (tmp_path / "models").exists()


def test_data_error_in_new_process_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(ROWS.encode())[:-20])
    options = (f"--data={path}", "--label=y", "--model=m", "--quiet")
    process = fit(tmp_path / "models", *options)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"Error: {path}: cannot be read: ")
    assert not (tmp_path / "models").exists()


def test_own_table_is_published_under_given_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    numbers = [float(i % 17) for i in range(400)]
    frame = pl.DataFrame({"a": numbers, "y": ["yes" if n > 8 else "no" for n in numbers]})
    frame.write_csv(path)
    models = f"--models={tmp_path / 'models'}"
    options = (models, f"--data={path}", "--label=y", "--model=own", NEWTON)
    result = run(
        "fit", *options, "--quiet", "--class-weight=yes=2", "--threshold=f1", "--memory=1kb"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'models' / 'own' / '1'}\n"
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("Warning: column 'a' alone predicts 'y' on held-out rows with AUC ")
    (line,) = run("versions", models, "--model=own", "--json").stdout.splitlines()
    stored = json.loads(line)
    assert stored["settings"]["class_weight"] == {"yes": 2.0}
    assert stored["settings"]["threshold"] == "f1"
    assert stored["data"]["source"] == str(path)


def test_models_directory_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("fit", f"--models={tmp_path / 'file' / 'models'}", NEWTON, "--quiet")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1, result.stderr
    line = result.stderr.rstrip()
    assert line.startswith("Error: cannot read or write: [Errno 20] Not a directory: ")


@pytest.mark.parametrize("command", ["", "fit", "versions", "verify", "rollback"])
def test_help_prints_usage(command: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "training", *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0
    assert process.stdout.startswith(f"Usage: python -m training {command}".rstrip())
    assert "--help" in process.stdout
    assert process.stderr == ""
