"""The cost of the prediction log and the drift counts in gateway throughput.

wrk loads the same gateway with and without the log, in turn, with one row of 30 numbers a request.
All processes share the machine's cores, so only the ratios are meaningful. The drift counts cannot
be turned off; their share is the time to count a row divided by the gateway's CPU per request.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import requests
from prometheus_client import CollectorRegistry, Counter

from benchmarks import report
from benchmarks.load import LoadResult, Request, load
from benchmarks.payloads import MODEL, rows
from benchmarks.processes import ROOT, Server, cpu_seconds, free_port, running
from client import ServingClient
from client.codecs import Call
from client.observability.drift_counts import DriftCounts

CONNECTIONS = (16, 64)
CALLS = 256
PLAIN, LOGGED = "without a log", "CLIENT_LOG_SHARE=1.0"
Measured = dict[tuple[str, int], list[tuple[LoadResult, float]]]


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def measure(
    request: Request, server: Server, connections: int, seconds: int
) -> tuple[LoadResult, float]:
    """Return the result of a load, and the gateway's CPU seconds per request."""
    before = cpu_seconds([server])
    result = load(request, connections, seconds)
    if result.errors:
        sys.exit(f"the load failed: {result}")
    return result, (cpu_seconds([server]) - before) / result.requests


def measure_drift_seconds(address: str, connections: int) -> float:
    """Return the seconds that counting takes per row.

    A call has the rows of half the connections; the other half waits for the next call.
    """
    batch_rows = connections // 2
    with ServingClient(address) as client:
        schema = client.schema(MODEL)
    labels = ("model", "version", "column", "bin")
    counts = DriftCounts(Counter("rows", "", labels, registry=CollectorRegistry()))
    matrix = rows(batch_rows).astype(np.float32)
    outputs = {"probability": np.linspace(0, 1, batch_rows, dtype=np.float32)}
    call = Call("dense", {"features": matrix})
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        for _ in range(CALLS):
            counts.add(schema, call, outputs)
        best = min(best, (time.process_time() - start) / (CALLS * batch_rows))
    return best


def count_dropped_rows(url: str) -> float:
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    name = "client_log_dropped_rows_total{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@click.command()
@click.option("--quick", is_flag=True, help="One short round, as a check.")
@report.write_option
def main(folder: Path | None, quick: bool) -> None:
    """Measure the gateway with and without the prediction log."""
    if folder and quick:
        raise click.UsageError("--write: expected a full run, without --quick")
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (on Debian: apt-get install wrk)")
    rounds, seconds = (1, 1) if quick else (5, 4)
    measured: Measured = {}
    dropped = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary)
        models, body = site / "models", site / "body"
        body.write_text(json.dumps({"instances": rows(1).tolist()}))
        fit = [sys.executable, "-m", "training", "fit", f"--models={models}", "--quiet"]
        subprocess.run(fit, cwd=ROOT, check=True)
        serving_port, port = free_port(), free_port()
        serving = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1"]
        serving += [f"--port={serving_port}", f"--model_name={MODEL}"]
        serving += [f"--model_base_path={models / MODEL}"]
        address, url = f"127.0.0.1:{serving_port}", f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "client", "serve", f"--port={port}"]
        request = Request(f"{url}/predict", "application/json", body)
        with running(serving, site / "serving.log"):
            for _ in range(rounds):
                for name in (PLAIN, LOGGED):
                    log = {"CLIENT_LOG": str(site / "log")} if name == LOGGED else {}
                    client_log = site / "client.log"
                    with running(command, client_log, CLIENT_SERVER=address, **log) as server:
                        server.wait(lambda: is_ready(url), 60)
                        measure(request, server, 4, 1)  # warm-up
                        for connections in CONNECTIONS:
                            result = measure(request, server, connections, seconds)
                            measured.setdefault((name, connections), []).append(result)
                        dropped += count_dropped_rows(url)
                    shutil.rmtree(site / "log", ignore_errors=True)
            counting = {count: measure_drift_seconds(address, count) for count in CONNECTIONS}
    report.write(
        "monitoring",
        f"Requests per second of /predict with one row of 30 numbers, median of {rounds} rounds of "
        f"{seconds} s, in turn, one worker. The prediction log dropped {dropped:.0f} rows. "
        "All processes share the cores, so only the ratios are meaningful.",
        [
            "connections",
            PLAIN,
            LOGGED,
            "ratio",
            "p99 without and with",
            "gateway's CPU for a request without and with",
            "of which drift counts",
        ],
        [make_row(measured, count, counting[count]) for count in CONNECTIONS],
        ["uvicorn", "orjson", "numpy"],
        folder,
    )


def make_row(measured: Measured, connections: int, counting: float) -> list[str]:
    """Return a row of the table; `counting` is the result of `measure_drift_seconds`."""
    plain, logged = measured[PLAIN, connections], measured[LOGGED, connections]
    ratios = [b.rate / a.rate for (a, _), (b, _) in zip(plain, logged, strict=True)]
    rates = [statistics.median(load.rate for load, _ in results) for results in (plain, logged)]
    p99s = [statistics.median(load.p99 for load, _ in results) for results in (plain, logged)]
    cpu = [statistics.median(seconds for _, seconds in results) for results in (plain, logged)]
    return [
        str(connections),
        *(f"{rate:,.0f}/s" for rate in rates),
        f"{statistics.median(ratios):.2f}",
        f"{1000 * p99s[0]:.1f}, {1000 * p99s[1]:.1f} ms",
        f"{1e6 * cpu[0]:.0f}, {1e6 * cpu[1]:.0f} µs",
        f"{1e6 * counting:.1f} µs, {counting / cpu[0]:.1%}",
    ]


if __name__ == "__main__":
    main()
