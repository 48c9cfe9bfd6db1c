"""The report of benchmarks/gateway.py: tables, goals, and a picture."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.gateway_picture import draw
from benchmarks.goals import goals
from benchmarks.load import generator_name
from benchmarks.measurements import BASELINE, BULK, ONE_ROW, THOUSAND_ROWS, Results, Workload
from benchmarks.peer_table import TENSORFLOW_SERVING, Peer

NAME = "gateway"
LOAD_HEADER = ["peer", "requests/s", "p50", "p99", "CPU per 1000 requests", "errors"]
PACKAGES = ["uvicorn", "flask", "orjson", "grpcio", "numpy", "tensorflow"]


@dataclass(frozen=True)
class Report:
    """The report of a run.

    Attributes:
        results: all measurements.
        peers: all peers, measured or not.
        rounds: number of rounds.
        seconds: duration of each load.
        load_average: the machine's one-minute load average when the run began.
    """

    results: Results
    peers: Sequence[Peer]
    rounds: int
    seconds: float
    load_average: float

    def write(self, folder: Path) -> None:
        """Write the tables and the picture to a folder."""
        draw(self.results, [peer.name for peer in self.peers], folder / f"{NAME}.svg")
        sections = [self._goals()]
        sections += [self._missing()] if self.results.missing else []
        sections += [self._footprints()]
        sections += [self._loads([w], f"One row, {_connections(w)}") for w in ONE_ROW]
        sections += [
            self._loads([w], f"1000 rows as JSON, {_connections(w)}") for w in THOUSAND_ROWS
        ]
        sections += [self._loads(BULK, f"10,000 rows, {_connections(BULK[0])}"), self._settings()]
        report.write_sections(NAME, self._about(), sections, PACKAGES, folder)

    def _about(self) -> str:
        backend = (
            "TensorFlow Serving"
            if TENSORFLOW_SERVING in self.peers
            else "the embedded server (`python -m serving`)"
        )
        return (
            "Rows of 30 numbers in, probabilities out. Each peer serves the same SavedModel and "
            "returned the same probabilities to 1e-5 before it was measured. Ours returns three "
            "outputs by name, as TensorFlow Serving does; peers with a format of their own return "
            f"only probabilities. The load is from {generator_name()}, on the same cores as the "
            f"servers. Medians of {self.rounds} rounds over all peers in turn, {self.seconds:g} s "
            f"for each load. Ours and the course's client call {backend}, whose CPU time counts as "
            f"theirs. Load average when the run began: {self.load_average:.1f}.\n\n"
            "![Requests per second and 99th percentile of the latency, by number of connections]"
            f"({NAME}.svg)"
        )

    def _goals(self) -> report.Section:
        rows = [goal.row() for goal in goals(self.results)]
        return "Goals, in this run", ["ours", "goal", "measured", "met"], rows

    def _missing(self) -> report.Section:
        rows = [
            [peer, measurement, reason.replace("|", "/")]
            for (peer, measurement), reason in self.results.missing.items()
        ]
        return "Not measured", ["peer", "measurement", "reason"], rows

    def _footprints(self) -> report.Section:
        header = ["peer", "start to first answer", "largest process, after loads of one row"]
        rows = []
        for peer in self.peers:
            footprint = self.results.footprint(peer.name)
            if footprint is not None:
                sizes_mb = (footprint.rows_mb, footprint.bulk_mb, footprint.total_mb)
                cells = [f"{size:,.0f} MB" for size in sizes_mb]
                rows.append([peer.name, f"{footprint.start_seconds:.2f} s", *cells])
        return "Start and memory", [*header, "after all loads", "all processes"], rows

    def _loads(self, workloads: Sequence[Workload], text: str) -> report.Section:
        rows = []
        for name in [*(peer.name for peer in self.peers), BASELINE]:
            for workload in workloads:
                label = f"{name}, {workload.encoding}" if len(workloads) > 1 else name
                rows += self._load(name, workload, label)
        return text, LOAD_HEADER, rows

    def _load(self, name: str, workload: Workload, label: str) -> list[list[str]]:
        median = self.results.median(name, workload)
        if median is None:
            missing = any(peer == name for peer, _ in self.results.missing)
            return [[label, "not measured, see above", "", "", "", ""]] if missing else []
        return [
            [
                label,
                f"{median.rate:,.0f}" if median.rate >= 100 else f"{median.rate:.1f}",
                f"{median.p50 * 1e3:,.2f} ms",
                f"{median.p99 * 1e3:,.2f} ms",
                f"{median.cpu_per_thousand:,.2f} s",
                f"{median.errors} of {median.requests:,}" if median.errors else "0",
            ]
        ]

    def _settings(self) -> report.Section:
        rows = [[peer.name, _versions(peer), peer.settings] for peer in self.peers]
        baseline = (
            "a Python program with one stub; each call encodes a row and decodes the response"
        )
        rows.append([BASELINE, "as above", baseline])
        return "Peers", ["peer", "versions", "settings"], rows


def _versions(peer: Peer) -> str:
    if peer is TENSORFLOW_SERVING:
        command = [os.environ["TENSORFLOW_MODEL_SERVER"], "--version"]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return process.stdout.splitlines()[0]
    return ", ".join(peer.packages) or "as above"


def _connections(workload: Workload) -> str:
    return f"{workload.connections} connection{'s' * (workload.connections > 1)}"
