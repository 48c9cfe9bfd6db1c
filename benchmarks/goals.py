"""Goals of the client against its peers, as ratios within one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measurements import (
    BULK,
    ONE_ROW,
    THOUSAND_ROWS,
    YARDSTICK,
    Median,
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
        measured: the number, None if it was not measured.
        at_least: whether the target is a minimum; otherwise it is a maximum.
        unit: unit of both numbers, with a leading space.
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
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return [self.text, target, f"{self.measured:.3g}{self.unit}", "yes" if met else "**no**"]


def goals(results: Results) -> Iterator[Goal]:
    """Yield every goal with its measurement."""

    def ours(workload: Workload) -> Median | None:
        return results.median(OURS.name, workload)

    def theirs(workload: Workload) -> Median | None:
        return results.median(TENSORFLOW_SERVING.name, workload)

    def fastapi(workload: Workload) -> Median | None:
        return results.median(FASTAPI.name, workload)

    rest = "TensorFlow Serving's REST"
    for workload, of_rest, of_fastapi, of_p99 in ((AT_64, 1.4, 12, 0.7), (AT_256, 2.5, 25, 0.5)):
        at = f"at {workload.connections} connections"
        mine, other = ours(workload), theirs(workload)
        yield Goal(f"requests/s {at} ÷ {rest}", of_rest, _rates(mine, other))
        yield Goal(f"p99 {at} ÷ {rest}", of_p99, _ratio(mine, other, "p99"), at_least=False)
        yield Goal(f"requests/s {at} ÷ FastAPI", of_fastapi, _rates(mine, fastapi(workload)))
    p50 = _ratio(ours(AT_1), results.median(YARDSTICK, AT_1), "p50")
    yield Goal("p50 at 1 connection ÷ a bare gRPC Predict", 2.2, p50, at_least=False)
    for workload in THOUSAND_ROWS:
        text = f"requests/s of 1000 rows as JSON at {workload.connections} ÷ {rest}"
        yield Goal(text, 2.4, _rates(ours(workload), theirs(workload)))
    for workload, limit in ((BULK_NPY, 6.7), (BULK_JSON, 1.5)):
        text = f"requests/s of 10,000 rows as {workload.form} ÷ {rest} as JSON"
        yield Goal(text, limit, _rates(ours(workload), theirs(BULK_JSON)))
    taken = results.footprint(OURS.name)
    start = taken.start_seconds if taken else None
    yield Goal("start to the first answer", MAX_START_SECONDS, start, False, " s")
    for text, limit, size in (
        ("loads of one row", MAX_ROWS_MB, taken.rows_mb if taken else None),
        ("all loads", MAX_TABLES_MB, taken.bulk_mb if taken else None),
    ):
        yield Goal(f"memory of a worker, after {text}", limit, size, False, " MB")


def _rates(one: Median | None, other: Median | None) -> float | None:
    return _ratio(one, other, "rate")


def _ratio(one: Median | None, other: Median | None, field: str) -> float | None:
    if one is None or other is None or not getattr(other, field):
        return None
    return float(getattr(one, field) / getattr(other, field))
