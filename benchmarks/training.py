"""Fitting millions of rows: time, peak memory and log-loss, compared with scikit-learn.

Each variant runs in a process of its own, is fitted on the same Parquet files of 30 standard normal
columns, in which the log-odds are linear, and is evaluated on the same held-out rows. All but
SGDClassifier, which takes 5 epochs, have the same ridge penalty and stop at the same size of the
gradient, 1e-4, which is scikit-learn's default.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks import report

COLUMNS = [f"x{i}" for i in range(30)]
LABEL = "y"
ROWS_PER_FILE = 1_000_000
TEST_ROWS = 200_000
SMALL_ROWS = 500
TOLERANCE = 1e-4
SMALL_MEMORY = 256 << 20
LARGE_MEMORY = 64 << 30

Floats = npt.NDArray[Any]


def generate(folder: Path, rows: int, seed: int, suffix: str = ".parquet") -> Path:
    """Write a table in files of a million rows, unless the folder exists."""
    if not folder.exists():
        # The peak memory of a process is at least its parent's, so the parent must stay small.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            pool.submit(write_table, folder, rows, seed, suffix).result()
    return folder


def write_table(folder: Path, rows: int, seed: int, suffix: str) -> None:
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    weights = np.random.default_rng(0).normal(size=len(COLUMNS)) * 0.3
    random = np.random.default_rng(seed)
    for start in range(0, rows, ROWS_PER_FILE):
        count = min(ROWS_PER_FILE, rows - start)
        features = random.standard_normal((count, len(COLUMNS)), dtype=np.float32)
        labels = random.random(count) < 1 / (1 + np.exp(0.5 - features @ weights))
        frame = pl.DataFrame(features, schema=COLUMNS).with_columns(pl.Series(LABEL, labels))
        path = unfinished / f"{start // ROWS_PER_FILE:03d}{suffix}"
        if suffix == ".csv":
            frame.write_csv(path, float_precision=5)
        else:
            frame.write_parquet(path, compression="uncompressed")
    unfinished.rename(folder)


class Stopwatch:
    """Measures the seconds of each stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def fit_ours(data: Path, watch: Stopwatch, memory: int) -> tuple[Floats, float]:
    """Read, encode and fit with Newton's method; return the columns' weights and the bias."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from training.data.reading import open_source
    from training.data.split import Split
    from training.data.table import Choice, read_table
    from training.fitting.problem import Problem
    from training.settings import FitSettings
    from training.workers.collectives import Workers

    settings = FitSettings(optimizer="newton", tolerance=TOLERANCE)
    with tempfile.TemporaryDirectory() as folder:
        with watch.stage("read"):
            # Hold out as few rows as possible: the evaluation uses other rows.
            split = Split(1e-4, 0.0, 0)
            source, choice = open_source(str(data)), Choice(LABEL)
            table = read_table(source, choice, split, Path(folder), Workers(), memory)
        with watch.stage("prepare"):
            problem = Problem(table, settings, memory, Workers())
        with watch.stage("fit"):
            theta = problem.fit(None, lambda steps, cost: None, lambda: False).theta
    means = np.array([column.mean for column in table.columns])
    weights = theta[:-1] / [column.deviation for column in table.columns]
    return weights, float(theta[-1] - weights @ means)


def fit_scikit_learn(
    data: Path, watch: Stopwatch, make_model: Callable[[], Any]
) -> tuple[Floats, float]:
    """Read with polars, standardise and fit; return the columns' weights and the bias."""
    from sklearn.preprocessing import StandardScaler

    with watch.stage("read"):
        pattern = str(data / "*")
        suffix = next(data.iterdir()).suffix
        frame = pl.read_csv(pattern) if suffix == ".csv" else pl.read_parquet(pattern)
    with watch.stage("prepare"):
        labels = frame[LABEL].to_numpy()
        features = frame.select(pl.col(COLUMNS).cast(pl.Float32)).to_numpy(order="c")
        del frame
        scaler = StandardScaler(copy=False)
        features = scaler.fit_transform(features)
    with watch.stage("fit"):
        model = make_model().fit(features, labels)
    weights = model.coef_[0] / scaler.scale_
    return weights, float(model.intercept_[0] - weights @ scaler.mean_)


def make_logistic_regression(solver: str) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver=solver, tol=TOLERANCE, max_iter=1000)


def make_sgd_classifier() -> Any:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=5, tol=None, random_state=0)


VARIANTS: dict[str, Callable[[Path, Stopwatch], tuple[Floats, float]]] = {
    "ours, newton": lambda data, watch: fit_ours(data, watch, LARGE_MEMORY),
    "ours, newton, streamed": lambda data, watch: fit_ours(data, watch, SMALL_MEMORY),
    "scikit-learn, lbfgs": lambda data, watch: fit_scikit_learn(
        data, watch, lambda: make_logistic_regression("lbfgs")
    ),
    "scikit-learn, newton-cholesky": lambda data, watch: fit_scikit_learn(
        data, watch, lambda: make_logistic_regression("newton-cholesky")
    ),
    "scikit-learn, SGDClassifier": lambda data, watch: fit_scikit_learn(
        data, watch, make_sgd_classifier
    ),
}


def run_variant(variant: str, data: Path, test_data: Path) -> dict[str, Any]:
    """Run a variant; return the seconds of each stage, peak memory in bytes, and the log-loss."""
    watch = Stopwatch()
    weights, bias = VARIANTS[variant](data, watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    frame = pl.read_parquet(test_data / "*")
    logit = frame.select(COLUMNS).to_numpy() @ weights + bias
    loss = np.logaddexp(0, logit) - frame[LABEL].to_numpy() * logit
    return {**watch.seconds, "peak": peak, "log_loss": float(loss.mean())}


def measure(variant: str, data: Path, test_data: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", "--variant", variant]
    command += ["--data", str(data), "--test-data", str(test_data)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    print(f"{variant}, {data.name}: {result}", file=sys.stderr)
    return result


def measure_process(data: Path, variant: str, test_data: Path) -> list[str]:
    """Measure a whole process: the job from file to published version, or a scikit-learn fit."""
    with tempfile.TemporaryDirectory() as models:
        command = [sys.executable, "-m"]
        if variant == "ours":
            command += ["training", "fit", "--quiet", "--optimizer=newton", f"--models={models}"]
            command += [f"--data={data}", f"--label={LABEL}", "--model=benchmark"]
        else:
            command += ["benchmarks.training", "--variant", variant, "--data", str(data)]
            command += ["--test-data", str(test_data)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return [f"{seconds:.2f} s", f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB"]


def make_row(label: str, result: dict[str, Any]) -> list[str]:
    stages = [result[name] for name in ("read", "prepare", "fit")]
    return [
        label,
        *(f"{seconds:.2f} s" for seconds in [*stages, sum(stages)]),
        f"{result['peak'] / 1e9:.2f} GB",
        f"{result['log_loss']:.6f}",
    ]


@click.command()
@click.option("--variant", type=click.Choice(list(VARIANTS)), hidden=True)
@click.option("--data", type=click.Path(path_type=Path), hidden=True)
@click.option("--test-data", type=click.Path(path_type=Path), hidden=True)
@click.option(
    "--data-folder",
    type=click.Path(path_type=Path),
    help="Directory for the generated tables, which later runs reuse.  [default: temporary]",
)
@click.option(
    "--rows",
    multiple=True,
    default=(1_000_000, 10_000_000),
    show_default=True,
    help="Rows of a Parquet table; repeatable.",
)
@click.option(
    "--streamed",
    multiple=True,
    default=(1_000_000, 10_000_000, 50_000_000),
    show_default=True,
    help="Rows of a table that is streamed from disk; repeatable.",
)
@click.option("--csv-rows", default=2_000_000, show_default=True, help="Rows of the CSV table.")
@report.write_option
def main(
    variant: str | None,
    data: Path,
    test_data: Path,
    data_folder: Path | None,
    rows: tuple[int, ...],
    streamed: tuple[int, ...],
    csv_rows: int,
    folder: Path | None,
) -> None:
    """Measure every variant on the same rows."""
    if variant is not None:
        print(json.dumps(run_variant(variant, data, test_data)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        data_folder = data_folder or Path(temporary)
        test_data = generate(data_folder / "test", TEST_ROWS, seed=1)
        header = ["variant", "read", "prepare", "fit", "total", "peak memory", "log-loss"]
        sections: list[report.Section] = []
        for count in rows:
            data = generate(data_folder / f"{count}", count, seed=2)
            variants = [name for name in VARIANTS if "streamed" not in name]
            results = {name: measure(name, data, test_data) for name in variants}
            best = min(result["fit"] for name, result in results.items() if "ours" not in name)
            ratio = best / results[variants[0]]["fit"]
            size_gb = count * len(COLUMNS) * 4 / 1e9
            text = (
                f"{count:,} rows, {size_gb:.2f} GB of features; "
                f"scikit-learn's best fit takes {ratio:.1f} times as long as ours."
            )
            sections.append((text, header, [make_row(n, r) for n, r in results.items()]))
        data = generate(data_folder / f"{csv_rows}-csv", csv_rows, seed=2, suffix=".csv")
        compared = ["ours, newton", "scikit-learn, lbfgs"]
        results = {name: measure(name, data, test_data) for name in compared}
        text = f"{csv_rows:,} rows from CSV"
        sections.append((text, header, [make_row(n, r) for n, r in results.items()]))
        small = generate(data_folder / f"{SMALL_ROWS}-csv", SMALL_ROWS, seed=2, suffix=".csv")
        tables = {f"{SMALL_ROWS} from CSV": small, f"{csv_rows:,} from CSV": data}
        tables |= {f"{count:,} from Parquet": data_folder / f"{count}" for count in rows}
        job_header = ["rows", "variant", "total", "peak memory"]
        jobs = (("ours, to a published version", "ours"), (compared[1],) * 2)
        lines = [
            [label, name, *measure_process(table, job, test_data)]
            for label, table in tables.items()
            for name, job in jobs
        ]
        sections.append(("Whole processes, from start to exit", job_header, lines))
        lines = []
        for count in streamed:
            data = generate(data_folder / f"{count}", count, seed=2)
            result = measure("ours, newton, streamed", data, test_data)
            lines.append(make_row(f"{count:,} rows", result))
        text = f"Rows streamed from disk, with `--memory {SMALL_MEMORY >> 20}MB`"
        sections.append((text, ["rows", *header[1:]], lines))
    about = (
        "Rows of 30 columns from files to weights, each variant in a process of its own. "
        "The stage `prepare` is all work between reading and fitting, such as standardising. "
        f"Tolerance {TOLERANCE:g}, 5 epochs of SGDClassifier; scikit-learn gets float32."
    )
    report.write_sections(
        "training", about, sections, ["tensorflow", "scikit-learn", "polars"], folder
    )


if __name__ == "__main__":
    main()
