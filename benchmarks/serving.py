"""The model server under gRPC load: calls per second and latency.

One model (30 numbers, signature `dense`), 1, 16 and 64 callers, 1, 32 and 1000 rows, batching on
and off. tensorflow_model_server is measured too if TENSORFLOW_MODEL_SERVER is the path of its
binary. Callers and server share the machine's cores, so only ratios are meaningful.

Batching cannot win here. The graph takes about 15 µs for a row and 100 µs for 1000, but a call
through gRPC and Python takes several hundred. A batch saves part of the 15 µs, and handing a call
to another thread and back costs more.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np

from benchmarks import report
from benchmarks.processes import ROOT, free_port, running
from client.serving.protos import DataType, PredictRequest
from client.serving.tensors import to_proto

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CALLERS = (1, 16, 64)
ROWS = (1, 32, 1000)
COLUMNS = 30
READY_SECONDS = 60
OPTIONS = [("grpc.max_receive_message_length", -1)]
# Two calls of 1000 rows do not fit into one batch, so 64 callers may fill 64 batches. By default,
# as in TensorFlow Serving, at most 10 may be enqueued, and further calls fail with UNAVAILABLE.
BATCHING = "max_batch_size { value: 1024 } max_enqueued_batches { value: 100 }\n"


@click.group(invoke_without_command=True)
@click.option("--repeats", default=3, show_default=True, help="Runs per point, for the median.")
@click.option("--seconds", default=3.0, show_default=True, help="Duration of a run.")
@click.option("--quick", is_flag=True, help="One short run of each point.")
@report.write_option
@click.pass_context
def main(
    context: click.Context, repeats: int, seconds: float, quick: bool, folder: Path | None
) -> None:
    """Measure the throughput and latency of every server in turn."""
    if context.invoked_subcommand is not None:
        return
    if folder and quick:
        raise click.UsageError("--write: expected a full run, without --quick")
    if quick:
        repeats, seconds = 1, 0.3
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        site = Path(name)
        fit = [sys.executable, "-m", "training", "fit", f"--models={site / 'models'}", "--quiet"]
        subprocess.run(fit, cwd=ROOT, check=True)
        servers = {
            label: _start(command, site, label, stack) for label, command in _commands(site).items()
        }
        measured: dict[tuple[str, int, int], list[dict[str, float]]] = {}
        for _ in range(repeats):
            for rows in ROWS:
                for callers in CALLERS:
                    for label, port in servers.items():
                        point = _load(port, rows, callers, seconds)
                        measured.setdefault((label, rows, callers), []).append(point)
        _write(servers, measured, repeats, seconds, folder)


def _commands(folder: Path) -> dict[str, list[str]]:
    (folder / "batching.config").write_text(BATCHING)
    batching = ["--enable_batching=true", f"--batching_parameters_file={folder}/batching.config"]
    ours = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1"]
    commands = {"embedded": ours, "embedded, batching": [*ours, *batching]}
    if binary := os.environ.get("TENSORFLOW_MODEL_SERVER"):
        # The default, four times the number of cores, rejects calls of further callers.
        theirs = [binary, f"--grpc_max_threads={max(CALLERS)}"]
        commands["TensorFlow Serving"] = theirs
        commands["TensorFlow Serving, batching"] = [*theirs, *batching]
    return commands


def _start(command: list[str], folder: Path, label: str, stack: ExitStack) -> int:
    port = free_port()
    flags = [
        f"--port={port}",
        "--model_name=breast_cancer",
        f"--model_base_path={folder / 'models' / 'breast_cancer'}",
    ]
    log = folder / label.replace(" ", "-") / "log"
    server = stack.enter_context(running([*command, *flags], log))
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
    call: Any = channel.unary_unary(PREDICT)

    def is_ready() -> bool:
        try:
            call(_request(1), timeout=1)
        except grpc.RpcError:
            return False
        return True

    server.wait(is_ready, READY_SECONDS)
    return port


def _request(rows: int) -> bytes:
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "breast_cancer", "dense"
    values = np.random.default_rng(0).normal(100, 30, (rows, COLUMNS)).astype(np.float32)
    request.inputs["features"].CopyFrom(to_proto(values, DataType.Value("DT_FLOAT")))
    return bytes(request.SerializeToString())


def _load(port: int, rows: int, callers: int, seconds: float) -> dict[str, float]:
    """Load a server from another process, and return rate, p50 and p99 in ms, and errors."""
    command = [sys.executable, "-m", "benchmarks.serving", "load", str(port), str(rows)]
    command += [str(callers), str(seconds)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    point: dict[str, float] = json.loads(process.stdout)
    return point


@main.command(hidden=True)
@click.argument("port", type=int)
@click.argument("rows", type=int)
@click.argument("callers", type=int)
@click.argument("seconds", type=float)
def load(port: int, rows: int, callers: int, seconds: float) -> None:
    """Call a server from CALLERS threads for SECONDS, and print rate and latency as JSON."""
    data, latencies = _request(rows), list[float]()
    errors = 0

    def call_until(end: float) -> None:
        nonlocal errors
        while (before := time.perf_counter()) < end:
            try:
                call(data, timeout=20)
            except grpc.RpcError:
                errors += 1
            else:
                latencies.append(time.perf_counter() - before)

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call: Any = channel.unary_unary(PREDICT)
        call(data, timeout=20)
        started = time.perf_counter()
        end = started + seconds
        threads = [threading.Thread(target=call_until, args=(end,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rate = len(latencies) / (time.perf_counter() - started)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    print(json.dumps({"rate": rate, "p50": p50, "p99": p99, "errors": errors}))


def _write(
    servers: dict[str, int],
    measured: dict[tuple[str, int, int], list[dict[str, float]]],
    repeats: int,
    seconds: float,
    folder: Path | None,
) -> None:
    sections: list[report.Section] = []
    for rows in ROWS:
        lines = []
        for label in servers:
            line = [label]
            for callers in CALLERS:
                points = measured[label, rows, callers]
                rate, p50, p99 = (
                    statistics.median(point[name] for point in points)
                    for name in ("rate", "p50", "p99")
                )
                failed = int(sum(point["errors"] for point in points))
                line.append(
                    f"{rate:,.0f}/s, {p50:.2f} / {p99:.2f} ms"
                    + (f", {failed} failed" * bool(failed))
                )
            lines.append(line)
        header = ["server", *(f"{callers} caller{'s' * (callers > 1)}" for callers in CALLERS)]
        sections.append((f"{rows} row{'s' * (rows > 1)} a call", header, lines))
    report.write_sections(
        "serving",
        "Predict calls per second, and median and 99th percentile of their latency, as seen by a "
        f"Python program that shares the cores with the server; medians of {repeats} runs of "
        f"{seconds:g} s, all servers in turn. The model takes a small part of a call's time, so "
        "batching has little to save. More batches may be enqueued than there are callers, so "
        "that no call is rejected.",
        sections,
        ["tensorflow", "grpcio", "numpy"],
        folder,
    )


if __name__ == "__main__":
    main()
