"""The client beside other ways to put a model behind HTTP, all in one run on one machine.

Every peer serves the same SavedModel in an environment of its own, and must give the same
probabilities before it is measured. In each round each peer is started, loaded and stopped in turn,
so that no two compete for the machine. Set TENSORFLOW_MODEL_SERVER to the program of that name to
have it behind the client, and its REST port measured too; else the embedded server stands there.
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
from benchmarks.environments import InstallError, environment
from benchmarks.load import Load, Request, ask, load
from benchmarks.measurements import (
    BULK,
    ONE_ROW,
    THOUSAND_ROWS,
    YARDSTICK,
    Footprint,
    Point,
    Results,
    Workload,
)
from benchmarks.payloads import MODEL, Form
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
# The program of TensorFlow Serving, "" for the embedded server.
MODEL_SERVER = os.environ.get("TENSORFLOW_MODEL_SERVER", "")


@dataclass(frozen=True)
class Plan:
    """Durations of the measurement."""

    rounds: int
    seconds: int


FULL = Plan(rounds=3, seconds=2)
QUICK = Plan(rounds=1, seconds=1)


@dataclass(frozen=True)
class Site:
    """The setup shared by all peers.

    Attributes:
        model: directory of the SavedModel.
        bodies: directory for the bodies of requests.
        logs: directory in which each peer has one of its own, and its log.
        server: the model server.
        address: of its gRPC port.
        rest_port: of TensorFlow Serving's REST; 0 if it is the embedded server.
        expected: probabilities by number of rows.
    """

    model: Path
    bodies: Path
    logs: Path
    server: Server
    address: str
    rest_port: int
    expected: dict[int, payloads.Floats]


def train(models: Path) -> Path:
    """Return a version's directory; it is trained if it is not there."""
    command = [sys.executable, "-m", "training", "fit", f"--models={models}", f"--model={MODEL}"]
    subprocess.run(
        [*command, "--quiet", "--unless-published"], cwd=ROOT, stdout=sys.stderr, check=True
    )
    return next((models / MODEL).glob("[0-9]*")).resolve()


@contextmanager
def site(folder: Path, model: Path) -> Iterator[Site]:
    """Run the model server while the context lasts."""
    port, rest_port = free_port(), 0
    command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1"]
    if MODEL_SERVER:
        rest_port = free_port()
        command = [MODEL_SERVER, f"--rest_api_port={rest_port}"]
    command += [f"--port={port}", f"--model_name={MODEL}", f"--model_base_path={model.parent}"]
    address, expected = f"127.0.0.1:{port}", {}
    logs = folder / "logs"
    with ExitStack() as stack:
        bodies = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(running(command, logs / "model-server" / "log"))
        asking = stack.enter_context(ServingClient(address, timeout=10))

        def predicts() -> bool:
            try:
                for rows in {workload.rows for workload in (*ONE_ROW, *THOUSAND_ROWS, *BULK)}:
                    features = {"features": payloads.rows(rows)}
                    reply = asking.predict(MODEL, features, signature_name=payloads.SIGNATURE)
                    expected[rows] = reply.outputs["probability"]
            except ClientError:
                return False
            return True

        server.wait(predicts, START_SECONDS)
        yield Site(model, Path(bodies), logs, server, address, rest_port, expected)


@contextmanager
def started(peer: Peer, programs: Path, here: Site) -> Iterator[tuple[str, Server]]:
    """Run a peer while the context lasts; yield its address and its process."""
    if not peer.command:
        yield f"http://127.0.0.1:{here.rest_port}{peer.path}", here.server
        return
    port, folder = free_port(), here.logs / peer.key
    command, variables = peer.filled(
        bin=programs,
        port=port,
        port_2=free_port(),
        port_3=free_port(),
        server=here.address,
        folder=folder,
        cores=os.cpu_count(),
    )
    with running(command, folder / "log", MODEL=str(here.model), **variables) as server:
        yield f"http://127.0.0.1:{port}{peer.path}", server


def request(url: str, form: Form, rows: int, here: Site) -> Request:
    """Return a request with so many rows, whose body is in a file."""
    body = here.bodies / f"{form.name}-{rows}"
    if not body.exists():
        body.write_bytes(form.write(payloads.rows(rows)))
    return Request(url, form.content_type, body)


def answers(asked: Request) -> bool:
    """Return whether the peer answers correctly yet."""
    try:
        return ask(asked)[0] == 200
    except (OSError, HTTPException):
        return False


def fault(asked: Request, form: Form, expected: payloads.Floats) -> str:
    """Send one request, and return the error in its response, or "" if it is right."""
    try:
        status, body = ask(asked)
        if status != 200:
            return f"{status}: {' '.join(body.decode(errors='replace').split())[:120]}"
        found = form.read(body)
        if found.shape != expected.shape:
            return f"expected {len(expected)} probabilities, got shape {list(found.shape)}"
        difference = float(np.abs(found - expected).max())
        return f"probabilities are off by {difference:.2g}" if difference > TOLERANCE else ""
    except (OSError, HTTPException, LookupError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def measure(peer: Peer, programs: Path, here: Site, plan: Plan, results: Results) -> None:
    """Start a peer, check its predictions, apply every load, and stop it."""
    with started(peer, programs, here) as (url, server):
        row = request(url, peer.form, 1, here)
        start = server.wait(lambda: answers(row), START_SECONDS)
        servers = {server, here.server} if peer.behind else {server}

        def measure_all(workloads: tuple[Workload, ...]) -> None:
            for workload in workloads:
                form = peer.form if workload.form == "JSON" else peer.tables.get(workload.form)
                if form is None:
                    continue
                asked = request(url, form, workload.rows, here)
                wrong = fault(asked, form, here.expected[workload.rows])
                if wrong:
                    results.missing[peer.name, workload.what] = wrong
                    continue
                before = cpu_seconds(servers)
                done = load(asked, workload.connections, plan.seconds)
                point = Point(done, cpu_seconds(servers) - before)
                results.add(peer.name, workload, point)
                tell(peer.name, workload, point)

        load(row, WARM_UP_CONNECTIONS, plan.seconds)
        measure_all(ONE_ROW)
        rows_mb, _ = memory(server)
        measure_all((*THOUSAND_ROWS, *BULK))
        footprint = Footprint(start, rows_mb, *memory(server))
    if peer.command:
        results.footprints.setdefault(peer.name, []).append(footprint)


def measure_yardstick(here: Site, plan: Plan, results: Results) -> None:
    """Measure a Python program that calls Predict over gRPC."""
    row = request("", payloads.NPY, 1, here).body
    variables = {"SERVER": here.address, "ROW": str(row), "SECONDS": str(plan.seconds)}
    before = cpu_seconds([here.server])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.bare_grpc"],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    took = json.loads(done.stdout)
    point = Point(Load.of(took, sum(took), 0), cpu_seconds([here.server]) - before)
    results.add(YARDSTICK, ONE_ROW[0], point)
    tell(YARDSTICK, ONE_ROW[0], point)


def tell(peer: str, workload: Workload, point: Point) -> None:
    """Print a measurement as progress."""
    done = point.load
    click.echo(
        f"{time.strftime('%H:%M:%S')}  {peer:26} {workload.what:20} {workload.connections:4}  "
        f"{done.rate:10,.0f}/s  p50 {done.p50 * 1e3:8.2f} ms  p99 {done.p99 * 1e3:8.2f} ms  "
        f"CPU {point.cpu_per_thousand:6.2f} s/1000  {done.errors} errors",
        err=True,
    )


@click.command()
@click.option("--quick", is_flag=True, help="One round of short loads, to see that all works.")
@click.option("--only", multiple=True, help="Measure only this peer; repeatable.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / ".run" / "benchmarks",
    help="Where environments, the model, logs and the report are kept.  [default: .run/benchmarks]",
)
@click.option("--write", is_flag=True, help="Write the report to benchmarks/results.")
def main(quick: bool, only: tuple[str, ...], folder: Path, write: bool) -> None:
    """Measure every peer, and write the report."""
    if write and (quick or only):
        raise click.UsageError("--write: expected a whole run, without --quick and --only")
    plan = QUICK if quick else FULL
    candidates = [*PEERS, *([TENSORFLOW_SERVING] if MODEL_SERVER else [])]
    names = {peer.key: peer for peer in candidates}
    if unknown := set(only) - names.keys():
        raise click.UsageError(f"--only: expected one of {', '.join(names)}, got {unknown.pop()}")
    results, programs = Results(), {}
    for peer in [names[key] for key in only] or candidates:
        try:
            programs[peer.key] = (
                environment(folder / "envs" / peer.key, peer.packages)
                if peer.packages
                else Path(sys.executable).parent
            )
        except InstallError as error:
            results.missing[peer.name, "environment"] = str(error)
    busy = os.getloadavg()[0]
    with site(folder, train(folder / "models")) as here:
        for number in range(plan.rounds):
            order = list(programs)
            for key in order[number:] + order[:number]:
                try:
                    measure(names[key], programs[key], here, plan, results)
                except (StartError, subprocess.CalledProcessError) as error:
                    results.missing[names[key].name, f"round {number + 1}"] = str(error)
            measure_yardstick(here, plan, results)
    report = gateway_report.Report(results, candidates, plan.rounds, plan.seconds, busy)
    report.write(RESULTS if write else folder)


if __name__ == "__main__":
    main()
