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
from benchmarks.peer_table import COURSE, OURS, PYTHON_PEERS, TENSORFLOW_SERVING

AT_1, _, AT_64, AT_256 = ONE_ROW
BULK_JSON, BULK_NPY, _ = BULK
MOST_START_SECONDS = 1.0
MOST_MB = 80.0


@dataclass(frozen=True)
class Goal:
    """A measured number and its target.

    Attributes:
        text: what is compared.
        limit: where the number is to be.
        measured: the number, None if it was not measured.
        at_least: whether more is better.
        unit: of the number.
    """

    text: str
    limit: float
    measured: float | None
    at_least: bool = True
    unit: str = " ×"

    def row(self) -> list[str]:
        """Return the row of a table: what, goal, measured, whether it was met."""
        wanted = f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"
        if self.measured is None:
            return [self.text, wanted, "not measured", "–"]
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return [self.text, wanted, f"{self.measured:.3g}{self.unit}", "yes" if met else "**no**"]


def goals(results: Results) -> Iterator[Goal]:
    """Return every goal with its measurement."""

    def ours(workload: Workload) -> Median | None:
        return results.median(OURS.name, workload)

    def theirs(workload: Workload) -> Median | None:
        return results.median(TENSORFLOW_SERVING.name, workload)

    course = results.median(COURSE.name, AT_64)
    yield Goal(
        "requests/s at 64 connections ÷ the course's client", 20, _rates(ours(AT_64), course)
    )
    peers = [(results.median(peer.name, AT_64), peer.name) for peer in PYTHON_PEERS]
    best, name = max(
        ((median, name) for median, name in peers if median),
        key=lambda pair: pair[0].rate,
        default=(None, "none was measured"),
    )
    text = f"requests/s at 64 connections ÷ the best Python peer ({name})"
    yield Goal(text, 10, _rates(ours(AT_64), best))
    for workload, limit in ((AT_64, 1.25), (AT_256, 2.0)):
        there = f"at {workload.connections} connections ÷ TensorFlow Serving's REST"
        yield Goal(f"requests/s {there}", limit, _rates(ours(workload), theirs(workload)))
        p99 = _ratio(ours(workload), theirs(workload), "p99")
        yield Goal(f"p99 {there}", 1.0, p99, at_least=False)
    p50 = _ratio(ours(AT_1), results.median(YARDSTICK, AT_1), "p50")
    yield Goal("p50 at 1 connection ÷ a bare gRPC Predict", 1.5, p50, at_least=False)
    for workload in THOUSAND_ROWS:
        text = (
            f"requests/s of 1000 rows as JSON at {workload.connections} ÷ TensorFlow Serving's REST"
        )
        yield Goal(text, 1.0, _rates(ours(workload), theirs(workload)))
    text = "requests/s of 10,000 rows as npy ÷ TensorFlow Serving's REST as JSON"
    yield Goal(text, 3.0, _rates(ours(BULK_NPY), theirs(BULK_JSON)))
    taken = results.footprint(OURS.name)
    start = taken.start_seconds if taken else None
    yield Goal("cold start to the first answer", MOST_START_SECONDS, start, False, " s")
    for text, size in (
        ("loads of one row", taken.rows_mb if taken else None),
        ("all loads", taken.bulk_mb if taken else None),
    ):
        yield Goal(f"memory of the largest process, after {text}", MOST_MB, size, False, " MB")


def _rates(one: Median | None, other: Median | None) -> float | None:
    return _ratio(one, other, "rate")


def _ratio(one: Median | None, other: Median | None, field: str) -> float | None:
    if one is None or other is None or not getattr(other, field):
        return None
    return float(getattr(one, field) / getattr(other, field))
