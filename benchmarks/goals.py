"""Goals of the client, as ratios to its peers within one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measurements import (
    BASELINE,
    BULK,
    ONE_ROW,
    THOUSAND_ROWS,
    Results,
    Workload,
)
from benchmarks.peer_table import FASTAPI, OURS, TENSORFLOW_SERVING

AT_1, _, AT_64, AT_256 = ONE_ROW
BULK_JSON, BULK_NPY, _ = BULK
MAX_START_SECONDS = 0.5
MAX_ROWS_MB = 75.0
MAX_TABLES_MB = 100.0


@dataclass(frozen=True)
class Goal:
    """A measured number and its target.

    Attributes:
        text: what is compared.
        limit: the target, in `unit`.
        measured: the number; None if it was not measured.
        at_least: whether the target is a minimum; otherwise it is a maximum.
        unit: unit of both numbers, with its leading space if it has one.
    """

    text: str
    limit: float
    measured: float | None
    at_least: bool = True
    unit: str = " ×"

    def row(self) -> list[str]:
        """Return a row of the table of goals: text, target, measured, and whether it was met."""
        target = f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"
        if self.measured is None:
            return [self.text, target, "not measured", "–"]
        is_met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return [self.text, target, f"{self.measured:.3g}{self.unit}", "yes" if is_met else "**no**"]


def goals(results: Results) -> Iterator[Goal]:
    """Yield every goal with its measurement."""

    def ratio(
        workload: Workload, peer: str, field: str, peer_workload: Workload | None = None
    ) -> float | None:
        ours = results.median(OURS.name, workload)
        theirs = results.median(peer, peer_workload or workload)
        if ours is None or theirs is None or not getattr(theirs, field):
            return None
        return float(getattr(ours, field) / getattr(theirs, field))

    rest = TENSORFLOW_SERVING.name
    for workload, rest_limit, fastapi_limit, p99_limit in (
        (AT_64, 1.4, 12, 0.7),
        (AT_256, 2.5, 25, 0.5),
    ):
        at = f"at {workload.connections} connections"
        p99 = ratio(workload, rest, "p99")
        fastapi = ratio(workload, FASTAPI.name, "rate")
        yield Goal(f"requests/s {at} ÷ {rest}", rest_limit, ratio(workload, rest, "rate"))
        yield Goal(f"p99 {at} ÷ {rest}", p99_limit, p99, at_least=False)
        yield Goal(f"requests/s {at} ÷ FastAPI", fastapi_limit, fastapi)
    p50 = ratio(AT_1, BASELINE, "p50")
    yield Goal("p50 at 1 connection ÷ a bare gRPC Predict", 2.2, p50, at_least=False)
    for workload in THOUSAND_ROWS:
        text = f"requests/s of 1000 rows as JSON at {workload.connections} ÷ {rest}"
        yield Goal(text, 2.4, ratio(workload, rest, "rate"))
    for workload, limit in ((BULK_NPY, 6.7), (BULK_JSON, 1.5)):
        text = f"requests/s of 10,000 rows as {workload.encoding} ÷ {rest} as JSON"
        yield Goal(text, limit, ratio(workload, rest, "rate", BULK_JSON))
    footprint = results.footprint(OURS.name)
    start = footprint.start_seconds if footprint else None
    yield Goal("start to the first answer", MAX_START_SECONDS, start, False, " s")
    for text, limit, size in (
        ("loads of one row", MAX_ROWS_MB, footprint.rows_mb if footprint else None),
        ("all loads", MAX_TABLES_MB, footprint.bulk_mb if footprint else None),
    ):
        yield Goal(f"memory of a worker, after {text}", limit, size, False, " MB")
