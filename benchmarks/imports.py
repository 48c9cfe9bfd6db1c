"""Cost of importing TensorFlow Serving's messages, with and without TensorFlow."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import click

from benchmarks import report

REPEATS = 7
MEASURE = """
import resource, time
started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WAYS = {
    "`from tensorflow_serving.apis import ...`": (
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc"
    ),
    "`import client` (messages, gRPC, numpy)": "import client",
    "`import client.http.flask_app` (all of the Flask application)": "import client.http.flask_app",
}


def measure(code: str) -> tuple[float, float]:
    """Return seconds and peak MB of a new process that imports something."""
    command = [sys.executable, "-c", MEASURE.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


@click.command()
@report.write_option
def main(folder: Path | None) -> None:
    """Measure the import time and memory of each way."""
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, code in WAYS.items():
            measured[way].append(measure(code))
    rows = [
        [
            way,
            f"{statistics.median(s for s, _ in results):.2f} s",
            f"{statistics.median(m for _, m in results):.0f} MB",
        ]
        for way, results in measured.items()
    ]
    report.write(
        "imports",
        f"Import time and peak memory of a fresh process, median of {REPEATS}, "
        "ways taken in turns.",
        ["way", "time", "memory"],
        rows,
        ["tensorflow", "tensorflow-serving-api", "grpcio"],
        folder,
    )


if __name__ == "__main__":
    main()
