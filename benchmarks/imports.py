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
VARIANTS = {
    "`from tensorflow_serving.apis import ...`": (
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc"
    ),
    "`import client` (messages, gRPC, numpy)": "import client",
    "`import client.http.flask_app` (all of the Flask application)": "import client.http.flask_app",
}


def measure(code: str) -> tuple[float, float]:
    """Run code in a new process, and return its seconds and the process's peak MB."""
    command = [sys.executable, "-c", MEASURE.format(code=code)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, process.stdout.split())
    return seconds, megabytes


@click.command()
@report.write_option
def main(folder: Path | None) -> None:
    """Measure the time and memory of each variant."""
    measured: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(REPEATS):
        for variant, code in VARIANTS.items():
            measured[variant].append(measure(code))
    rows = [
        [
            variant,
            f"{statistics.median(s for s, _ in results):.2f} s",
            f"{statistics.median(m for _, m in results):.0f} MB",
        ]
        for variant, results in measured.items()
    ]
    report.write(
        "imports",
        f"Import time and peak memory of a new process, median of {REPEATS}, all variants in turn.",
        ["variant", "time", "memory"],
        rows,
        ["tensorflow", "tensorflow-serving-api", "grpcio"],
        folder,
    )


if __name__ == "__main__":
    main()
