"""Several model servers and gateways: rate, distribution, failures, and CPU per request.

Processes are pinned if there is a core for each, and one for the load. With fewer cores, the rate
cannot grow, and only the distribution and the number of failures are meaningful.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import psutil

from benchmarks import payloads
from benchmarks.gateway import START_SECONDS, is_ready, train
from benchmarks.load import LoadResult, Request, generator_name, load
from benchmarks.processes import Server, cpu_seconds, free_port, running
from benchmarks.report import write_option, write_sections

# Numbers of model servers and gateways.
SIZES = ((1, 1), (2, 1), (3, 1), (1, 2), (3, 2))
ABOUT = "One row of 30 numbers as JSON, {connections} connections to each gateway, {load}. {pinned}"
HEADER = (
    "servers",
    "gateways",
    "requests per second",
    "p50",
    "p99",
    "failed",
    "CPU of a gateway, s per 1000",
    "CPU of a server, s per 1000",
    "shares of the servers' CPU",
)


@click.command()
@click.option("--connections", default=64, help="Connections to each gateway.")
@click.option("--seconds", default=5, help="Duration of each measurement.")
@write_option
def main(connections: int, seconds: int, folder: Path | None) -> None:
    """Measure 1 to 3 embedded model servers behind 1 or 2 gateways."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    largest = max(servers + gateways for servers, gateways in SIZES)
    pinned = cores if len(cores) > largest else []
    with tempfile.TemporaryDirectory() as temporary:
        model = train(Path(temporary) / "models")
        rows = [
            measure(size, model, Path(temporary), connections, seconds, pinned) for size in SIZES
        ]
    about = ABOUT.format(
        connections=connections,
        load=generator_name(),
        pinned="Each process has a core of its own."
        if pinned
        else "The processes share the cores; compare the shares and the CPU, not the rates.",
    )
    write_sections(
        "scale", about, [("", HEADER, rows)], ["tensorflow", "grpcio", "uvicorn"], folder
    )


def measure(
    size: tuple[int, int],
    model: Path,
    folder: Path,
    connections: int,
    seconds: int,
    cores: Sequence[int],
) -> list[str]:
    """Start servers and gateways, apply the load, and return a row of the table."""
    server_count, gateway_count = size
    with ExitStack() as stack:
        ports = [free_port() for _ in range(server_count)]
        flags = [f"--model_name={payloads.MODEL}", f"--model_base_path={model.parent}"]
        command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", *flags]
        servers = [
            stack.enter_context(running([*command, f"--port={port}"], folder / f"{port}/log"))
            for port in ports
        ]
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        gateways, requests = [], []
        for _ in range(gateway_count):
            port = free_port()
            command = [sys.executable, "-m", "client", "serve", f"--port={port}"]
            command += [f"--server={addresses}"]
            log = folder / f"{port}/log"
            gateways.append(stack.enter_context(running(command, log, CLIENT_MODEL=payloads.MODEL)))
            body = folder / "row"
            body.write_bytes(payloads.PLAIN.encode(payloads.rows(1)))
            url = f"http://127.0.0.1:{port}/predict"
            requests.append(Request(url, payloads.PLAIN.content_type, body))
        for gateway, request in zip(gateways, requests, strict=True):
            gateway.wait(lambda r=request: is_ready(r), START_SECONDS)  # type: ignore[misc]
        for core, process in zip(cores, (*servers, *gateways), strict=False):
            pin(process, core)
        load_all(requests, connections, 1)
        before = [cpu_seconds([process]) for process in (*gateways, *servers)]
        loads = load_all(requests, connections, seconds)
        after = [cpu_seconds([process]) for process in (*gateways, *servers)]
    cpu = [end - start for start, end in zip(before, after, strict=True)]
    gateway_cpu, server_cpu = cpu[:gateway_count], cpu[gateway_count:]
    total = sum(result.requests for result in loads)
    return [
        str(server_count),
        str(gateway_count),
        f"{sum(result.rate for result in loads):,.0f}",
        f"{1000 * max(result.p50 for result in loads):.1f} ms",
        f"{1000 * max(result.p99 for result in loads):.1f} ms",
        str(sum(result.errors for result in loads)),
        f"{1000 * sum(gateway_cpu) / total:.3f}",
        f"{1000 * sum(server_cpu) / total:.3f}",
        " / ".join(f"{used / sum(server_cpu):.0%}" for used in server_cpu),
    ]


def load_all(requests: Sequence[Request], connections: int, seconds: int) -> list[LoadResult]:
    """Load all gateways at the same time."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda request: load(request, connections, seconds), requests))


def pin(server: Server, core: int) -> None:
    """Restrict a server's processes to one core."""
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            process.cpu_affinity([core])


if __name__ == "__main__":
    main()
