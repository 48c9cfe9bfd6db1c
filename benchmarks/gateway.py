"""Compare the client with other ways to serve a model over HTTP, in one run on one machine.

Every peer serves the same SavedModel in an environment of its own, and must return the same
probabilities before it is measured. In each round, each peer is started, loaded and stopped in
turn, so that no two compete for the machine. The client calls the embedded model server, or the
binary at TENSORFLOW_MODEL_SERVER, whose REST port is then measured too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import click
import numpy as np

from benchmarks import gateway_report, payloads
from benchmarks.environments import InstallError, ensure_environment
from benchmarks.load import LoadResult, Request, load, send_once
from benchmarks.measurements import (
    BASELINE,
    BULK,
    ONE_ROW,
    THOUSAND_ROWS,
    Footprint,
    Point,
    Results,
    Workload,
)
from benchmarks.payloads import MODEL, Codec
from benchmarks.peer_table import PEERS, TENSORFLOW_SERVING, Peer
from benchmarks.processes import (
    ROOT,
    Server,
    StartError,
    cpu_seconds,
    free_port,
    memory,
    running,
)
from benchmarks.report import RESULTS
from client import ServingClient
from client.errors import ClientError

START_SECONDS = 120
TOLERANCE = 1e-5
WARM_UP_CONNECTIONS = 16
# Path of tensorflow_model_server; "" for the embedded server.
MODEL_SERVER = os.environ.get("TENSORFLOW_MODEL_SERVER", "")


@dataclass(frozen=True)
class Plan:
    """Durations of the measurement."""

    rounds: int
    seconds: int


FULL = Plan(rounds=3, seconds=2)
QUICK = Plan(rounds=1, seconds=1)


@dataclass(frozen=True)
class Setup:
    """The setup shared by all peers.

    Attributes:
        model: directory of the SavedModel.
        bodies: directory for the bodies of requests.
        logs: directory of the logs, with a subdirectory for each peer.
        server: the model server.
        address: host:port of its gRPC port.
        rest_port: its REST port; 0 for the embedded server.
        expected: the correct probabilities, by number of rows.
    """

    model: Path
    bodies: Path
    logs: Path
    server: Server
    address: str
    rest_port: int
    expected: dict[int, payloads.Floats]


def train(models: Path) -> Path:
    """Return the directory of the model's version; train it on the first call."""
    command = [sys.executable, "-m", "training", "fit", f"--models={models}", f"--model={MODEL}"]
    subprocess.run(
        [*command, "--quiet", "--unless-published"], cwd=ROOT, stdout=sys.stderr, check=True
    )
    return next((models / MODEL).glob("[0-9]*")).resolve()


@contextmanager
def model_server(folder: Path, model: Path) -> Iterator[Setup]:
    """Run the model server while the context lasts."""
    port, rest_port = free_port(), 0
    command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1"]
    if MODEL_SERVER:
        rest_port = free_port()
        # The default, four times the number of cores, rejects concurrent calls of the client.
        command = [MODEL_SERVER, f"--rest_api_port={rest_port}", "--grpc_max_threads=64"]
    command += [f"--port={port}", f"--model_name={MODEL}", f"--model_base_path={model.parent}"]
    address, expected = f"127.0.0.1:{port}", {}
    logs = folder / "logs"
    with ExitStack() as stack:
        bodies = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(running(command, logs / "model-server" / "log"))
        client = stack.enter_context(ServingClient(address, timeout=10))

        def has_predicted() -> bool:
            try:
                for rows in {workload.rows for workload in (*ONE_ROW, *THOUSAND_ROWS, *BULK)}:
                    features = {"features": payloads.rows(rows)}
                    response = client.predict(MODEL, features, signature_name=payloads.SIGNATURE)
                    expected[rows] = response.outputs["probability"]
            except ClientError:
                return False
            return True

        server.wait(has_predicted, START_SECONDS)
        yield Setup(model, Path(bodies), logs, server, address, rest_port, expected)


@contextmanager
def run_peer(peer: Peer, programs: Path, setup: Setup) -> Iterator[tuple[str, Server]]:
    """Run a peer while the context lasts; yield its address and its process."""
    if not peer.command:
        yield f"http://127.0.0.1:{setup.rest_port}{peer.path}", setup.server
        return
    port, folder = free_port(), setup.logs / peer.key
    command, variables = peer.fill_placeholders(
        bin=programs,
        port=port,
        port_2=free_port(),
        port_3=free_port(),
        server=setup.address,
        folder=folder,
        cores=os.cpu_count(),
    )
    with running(command, folder / "log", MODEL=str(setup.model), **variables) as server:
        yield f"http://127.0.0.1:{port}{peer.path}", server


def make_request(url: str, codec: Codec, rows: int, setup: Setup) -> Request:
    """Return a request with this number of rows; its body is written to a file once."""
    body = setup.bodies / f"{codec.name}-{rows}"
    if not body.exists():
        body.write_bytes(codec.encode(payloads.rows(rows)))
    return Request(url, codec.content_type, body)


def is_ready(request: Request) -> bool:
    """Return whether the response has status 200."""
    try:
        return send_once(request)[0] == 200
    except (OSError, HTTPException):
        return False


def find_fault(request: Request, codec: Codec, expected: payloads.Floats) -> str:
    """Send one request, and return what is wrong with the response; "" if it is correct."""
    try:
        status, body = send_once(request)
        if status != 200:
            return f"{status}: {' '.join(body.decode(errors='replace').split())[:120]}"
        probabilities = codec.decode(body)
        if probabilities.shape != expected.shape:
            return f"expected {len(expected)} probabilities, got shape {list(probabilities.shape)}"
        difference = float(np.abs(probabilities - expected).max())
        return f"probabilities are off by {difference:.2g}" if difference > TOLERANCE else ""
    except (OSError, HTTPException, LookupError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def measure(peer: Peer, programs: Path, setup: Setup, plan: Plan, results: Results) -> None:
    """Start a peer, check its predictions, apply every load, and stop it."""
    with run_peer(peer, programs, setup) as (url, server):
        one_row = make_request(url, peer.codec, 1, setup)
        start = server.wait(lambda: is_ready(one_row), START_SECONDS)
        servers = {server, setup.server} if peer.calls_model_server else {server}

        def measure_all(workloads: tuple[Workload, ...]) -> None:
            for workload in workloads:
                codec = peer.codecs.get(workload.encoding)
                if codec is None:
                    continue
                request = make_request(url, codec, workload.rows, setup)
                fault = find_fault(request, codec, setup.expected[workload.rows])
                if fault:
                    results.missing[peer.name, workload.description] = fault
                    continue
                before = cpu_seconds(servers)
                result = load(request, workload.connections, plan.seconds)
                point = Point(result, cpu_seconds(servers) - before)
                results.add(peer.name, workload, point)
                show_progress(peer.name, workload, point)

        load(one_row, WARM_UP_CONNECTIONS, plan.seconds)
        measure_all(ONE_ROW)
        rows_mb, _ = memory(server)
        measure_all((*THOUSAND_ROWS, *BULK))
        footprint = Footprint(start, rows_mb, *memory(server))
    if peer.command:
        results.footprints.setdefault(peer.name, []).append(footprint)


def measure_baseline(setup: Setup, plan: Plan, results: Results) -> None:
    """Measure a Python program that calls Predict over gRPC."""
    row = make_request("", payloads.NPY, 1, setup).body
    variables = {"SERVER": setup.address, "ROW": str(row), "SECONDS": str(plan.seconds)}
    before = cpu_seconds([setup.server])
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.bare_grpc"],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    latencies = json.loads(process.stdout)
    result = LoadResult.from_latencies(latencies, sum(latencies))
    point = Point(result, cpu_seconds([setup.server]) - before)
    results.add(BASELINE, ONE_ROW[0], point)
    show_progress(BASELINE, ONE_ROW[0], point)


def show_progress(peer: str, workload: Workload, point: Point) -> None:
    """Print a measurement."""
    result = point.load
    click.echo(
        f"{time.strftime('%H:%M:%S')}  {peer:26} "
        f"{workload.description:20} {workload.connections:4}  "
        f"{result.rate:10,.0f}/s  p50 {result.p50 * 1e3:8.2f} ms  p99 {result.p99 * 1e3:8.2f} ms  "
        f"CPU {point.cpu_per_thousand:6.2f} s/1000  {result.errors} errors",
        err=True,
    )


@click.command()
@click.option("--quick", is_flag=True, help="One round of short loads, as a check.")
@click.option("--only", multiple=True, help="Measure only this peer; repeatable.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / ".run" / "benchmarks",
    help="Directory for environments, model, logs and report.  [default: .run/benchmarks]",
)
@click.option("--write", is_flag=True, help="Write the report to benchmarks/results.")
def main(quick: bool, only: tuple[str, ...], folder: Path, write: bool) -> None:
    """Measure every peer, and write the report."""
    if write and (quick or only):
        raise click.UsageError("--write: expected a full run, without --quick and --only")
    plan = QUICK if quick else FULL
    candidates = [*PEERS, *([TENSORFLOW_SERVING] if MODEL_SERVER else [])]
    peers = {peer.key: peer for peer in candidates}
    if unknown := set(only) - peers.keys():
        raise click.UsageError(f"--only: expected one of {', '.join(peers)}, got {unknown.pop()}")
    results, programs = Results(), {}
    for peer in [peers[key] for key in only] or candidates:
        try:
            programs[peer.key] = (
                ensure_environment(folder / "envs" / peer.key, peer.packages)
                if peer.packages
                else Path(sys.executable).parent
            )
        except InstallError as error:
            results.missing[peer.name, "environment"] = str(error)
    load_average = os.getloadavg()[0]
    with model_server(folder, train(folder / "models")) as setup:
        for number in range(plan.rounds):
            order = list(programs)
            for key in order[number:] + order[:number]:
                try:
                    measure(peers[key], programs[key], setup, plan, results)
                except (StartError, subprocess.CalledProcessError) as error:
                    results.missing[peers[key].name, f"round {number + 1}"] = str(error)
            measure_baseline(setup, plan, results)
    report = gateway_report.Report(results, candidates, plan.rounds, plan.seconds, load_average)
    report.write(RESULTS if write else folder)


if __name__ == "__main__":
    main()
