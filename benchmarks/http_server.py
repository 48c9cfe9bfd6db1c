"""The gateway's HTTP server, compared with WSGI servers that run the Flask application.

wrk loads the same API under each server, in front of the same model server, with one row of 30
numbers a request. All processes share the machine's cores, so only the ratios are meaningful.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import requests

from benchmarks import report
from benchmarks.load import LoadResult, Request, load
from benchmarks.processes import ROOT, free_port, running

REPEATS = 3
SECONDS = 4
CONNECTIONS = (1, 16, 64)


def servers(port: int) -> dict[str, list[str]]:
    """Return the command of each server; one process, so that one scrape has all its metrics."""
    python = [sys.executable, "-m"]
    gunicorn = [*python, "gunicorn", f"--bind=127.0.0.1:{port}", "--log-level=error"]
    app = "client.http.flask_app:create_app()"
    return {
        "uvicorn with our protocol": [*python, "client", "serve", f"--port={port}"],
        "gunicorn gthread, 16 threads": [*gunicorn, "--threads=16", app],
        "gunicorn gthread, 64 threads": [*gunicorn, "--threads=64", app],
    }


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def measure(request: Request, connections: int) -> LoadResult:
    """Load the server; exit if a request fails."""
    result = load(request, connections, SECONDS)
    if result.errors:
        sys.exit(f"the load failed: {result}")
    return result


@click.command()
@report.write_option
def main(folder: Path | None) -> None:
    """Measure the throughput and latency of each HTTP server in turn."""
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (on Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary)
        models, body, log = site / "models", site / "body", site / "log"
        body.write_text(json.dumps({"instances": [[float(i) for i in range(30)]]}))
        subprocess.run(
            [sys.executable, "-m", "training", "fit", f"--models={models}"], cwd=ROOT, check=True
        )
        serving_port, port = free_port(), free_port()
        serving = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1"]
        serving += [f"--port={serving_port}", "--model_name=breast_cancer"]
        serving += [f"--model_base_path={models / 'breast_cancer'}"]
        url = f"http://127.0.0.1:{port}"
        request = Request(f"{url}/predict", "application/json", body)
        measured: dict[tuple[str, int], list[LoadResult]] = {}
        with running(serving, site / "serving.log"):
            for _ in range(REPEATS):
                for name, command in servers(port).items():
                    with running(command, log, CLIENT_SERVER=f"127.0.0.1:{serving_port}") as server:
                        server.wait(lambda: is_ready(url), 60)
                        measure(request, 4)  # warm-up
                        for connections in CONNECTIONS:
                            result = measure(request, connections)
                            measured.setdefault((name, connections), []).append(result)
    rows = []
    for name in servers(port):
        row = [name]
        for connections in CONNECTIONS:
            results = measured[name, connections]
            rate = statistics.median(result.rate for result in results)
            latency = 1000 * statistics.median(result.p99 for result in results)
            row.append(f"{rate:,.0f}/s, {latency:.1f} ms")
        rows.append(row)
    report.write(
        "http_server",
        f"Requests per second and 99th percentile of /predict with one row, median of {REPEATS} "
        f"runs of {SECONDS} s, all servers in turn, each with one process.",
        ["server", *(f"{c} connections" for c in CONNECTIONS)],
        rows,
        ["uvicorn", "gunicorn", "flask", "grpcio"],
        folder,
    )


if __name__ == "__main__":
    main()
