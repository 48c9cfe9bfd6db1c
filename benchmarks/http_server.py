"""Which WSGI server to put in front of the Flask application.

The same application under each server, in front of the same model server, one row of 30 numbers a
request, loaded by wrk. All share the machine's cores, so only the ratios mean something.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
SECONDS = 4
CONNECTIONS = (1, 16, 64)
LATENCY = re.compile(r"99%\s+([\d.]+)(us|ms|s)")
RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
ERRORS = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def servers(port: int) -> dict[str, list[str]]:
    """Return the command of each candidate; one process each, so that metrics stay whole."""
    python = [sys.executable, "-m"]
    granian = [*python, "granian", "--interface=wsgi", "--factory", f"--port={port}"]
    gunicorn = [*python, "gunicorn", f"--bind=127.0.0.1:{port}", "--log-level=error"]
    return {
        "granian, 4 threads": [*granian, "--blocking-threads=4", "client.web.app:create_app"],
        "granian, 16 threads": [*granian, "--blocking-threads=16", "client.web.app:create_app"],
        "granian, 64 threads": [*granian, "--blocking-threads=64", "client.web.app:create_app"],
        "gunicorn gthread, 16 threads": [*gunicorn, "--threads=16", "client.web.app:create_app()"],
        "gunicorn gthread, 64 threads": [*gunicorn, "--threads=64", "client.web.app:create_app()"],
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    sys.exit(f"{url} did not become ready")


def load(url: str, script: Path, connections: int) -> tuple[float, float]:
    """Return requests per second and the 99th percentile in ms."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", f"-s{script}", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, latency = RATE.search(printed), LATENCY.search(printed)
    if rate is None or latency is None or ERRORS.search(printed):
        sys.exit(f"the load failed:\n{printed}")
    return float(rate[1]), float(latency[1]) * MILLISECONDS[latency[2]]


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (on Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        models, script = Path(folder, "models"), Path(folder, "predict.lua")
        body = json.dumps({"instances": [[float(i) for i in range(30)]]})
        script.write_text(f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n")
        subprocess.run(
            [sys.executable, "-m", "training", "fit", f"--models={models}"], cwd=ROOT, check=True
        )
        serving_port, port = free_port(), free_port()
        serving = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1"]
        serving += [f"--port={serving_port}", "--model_name=breast_cancer"]
        serving += [f"--model_base_path={models / 'breast_cancer'}"]
        measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
        with running(serving):
            for _ in range(REPEATS):
                for name, command in servers(port).items():
                    with running(command, CLIENT_SERVER=f"127.0.0.1:{serving_port}"):
                        url = f"http://127.0.0.1:{port}"
                        wait_until_ready(url)
                        load(f"{url}/predict", script, 4)  # warm-up
                        for connections in CONNECTIONS:
                            result = load(f"{url}/predict", script, connections)
                            measured.setdefault((name, connections), []).append(result)
    rows = []
    for name in servers(port):
        row = [name]
        for connections in CONNECTIONS:
            results = measured[name, connections]
            rate = statistics.median(r for r, _ in results)
            latency = statistics.median(p for _, p in results)
            row.append(f"{rate:,.0f}/s, {latency:.1f} ms")
        rows.append(row)
    report.write(
        "http_server",
        f"Requests per second and 99th percentile of /predict with one row, median of {REPEATS} "
        f"runs of {SECONDS} s, servers taken in turns, each with one process.",
        ["server", *(f"{c} connections" for c in CONNECTIONS)],
        rows,
        ["granian", "gunicorn", "flask", "grpcio"],
    )


if __name__ == "__main__":
    main()
