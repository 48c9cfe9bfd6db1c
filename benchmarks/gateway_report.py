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
from benchmarks.load import generator
from benchmarks.measurements import BULK, ONE_ROW, THOUSAND_ROWS, YARDSTICK, Results, Workload
from benchmarks.peer_table import TENSORFLOW_SERVING, Peer

NAME = "gateway"
LOADS = ["peer", "requests/s", "p50", "p99", "CPU for 1000 requests", "errors"]
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
        """Write tables and picture to a folder."""
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
        behind = (
            "TensorFlow Serving"
            if TENSORFLOW_SERVING in self.peers
            else "the embedded server (`python -m serving`)"
        )
        return (
            "Rows of 30 numbers in, probabilities out: the same SavedModel behind each peer, which "
            "gave the same probabilities to 1e-5 before it was measured. Ours replies with three "
            "outputs by name, as TensorFlow Serving does; peers that choose their own form reply "
            f"with probabilities alone. Load from {generator()}, on the same cores as the servers; "
            f"each load took {self.seconds:g} s, {self.rounds} rounds over all peers in turn, "
            f"medians. Behind ours and the course's client stands {behind}; its CPU is theirs too. "
            f"Load average when the run began: {self.load_average:.1f}.\n\n"
            f"![Requests a second and 99th percentile by connections]({NAME}.svg)"
        )

    def _goals(self) -> report.Section:
        rows = [goal.row() for goal in goals(self.results)]
        return "Goals, in this run", ["ours", "goal", "measured", "met"], rows

    def _missing(self) -> report.Section:
        rows = [
            [peer, what, why.replace("|", "/")]
            for (peer, what), why in self.results.missing.items()
        ]
        return "What could not be measured", ["peer", "what", "why"], rows

    def _footprints(self) -> report.Section:
        header = ["peer", "start to first answer", "largest process, after loads of one row"]
        rows = []
        for peer in self.peers:
            footprint = self.results.footprint(peer.name)
            if footprint is not None:
                sizes = (footprint.rows_mb, footprint.bulk_mb, footprint.together_mb)
                cells = [f"{size:,.0f} MB" for size in sizes]
                rows.append([peer.name, f"{footprint.start_seconds:.2f} s", *cells])
        return "Start and memory", [*header, "after all loads", "all processes"], rows

    def _loads(self, workloads: Sequence[Workload], text: str) -> report.Section:
        rows = []
        for name in [*(peer.name for peer in self.peers), YARDSTICK]:
            for workload in workloads:
                label = f"{name}, {workload.form}" if len(workloads) > 1 else name
                rows += self._load(name, workload, label)
        return text, LOADS, rows

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
        yardstick = (
            "a Python program with one stub; a row is encoded and the reply decoded each time"
        )
        rows.append([YARDSTICK, "as above", yardstick])
        return "Peers", ["peer", "versions", "settings"], rows


def _versions(peer: Peer) -> str:
    if peer is TENSORFLOW_SERVING:
        command = [os.environ["TENSORFLOW_MODEL_SERVER"], "--version"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.splitlines()[0]
    return ", ".join(peer.packages) or "as above"


def _connections(workload: Workload) -> str:
    return f"{workload.connections} connection{'s' * (workload.connections > 1)}"
