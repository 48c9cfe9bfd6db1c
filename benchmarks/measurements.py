"""Measurements of all peers over all rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.load import LoadResult

BASELINE = "bare gRPC"


@dataclass(frozen=True)
class Workload:
    """Requests with the same number of rows, over a number of connections."""

    rows: int
    connections: int
    encoding: str = "JSON"

    @property
    def description(self) -> str:
        """The request's description, without the number of connections."""
        return f"{self.rows:,} row{'s' * (self.rows > 1)} as {self.encoding}"


ONE_ROW = tuple(Workload(1, connections) for connections in (1, 16, 64, 256))
THOUSAND_ROWS = tuple(Workload(1000, connections) for connections in (1, 4))
BULK = tuple(Workload(10_000, 1, encoding) for encoding in ("JSON", "npy", "Arrow"))


@dataclass(frozen=True)
class Point:
    """One load, and the CPU seconds of all the peer's processes."""

    load: LoadResult
    cpu_seconds: float

    @property
    def cpu_per_thousand(self) -> float:
        """Seconds of CPU for 1000 requests."""
        return 1000 * self.cpu_seconds / max(1, self.load.requests)


@dataclass(frozen=True)
class Median:
    """The medians of several points, and the sums of their errors and requests."""

    rate: float
    p50: float
    p99: float
    cpu_per_thousand: float
    errors: int
    requests: int

    @classmethod
    def from_points(cls, points: Sequence[Point]) -> Median:
        """Summarize at least one point."""
        return cls(
            statistics.median(point.load.rate for point in points),
            statistics.median(point.load.p50 for point in points),
            statistics.median(point.load.p99 for point in points),
            statistics.median(point.cpu_per_thousand for point in points),
            sum(point.load.errors for point in points),
            sum(point.load.requests for point in points),
        )


@dataclass(frozen=True)
class Footprint:
    """The resources of a peer in one round.

    Attributes:
        start_seconds: time from its start to its first response.
        rows_mb: resident memory of its largest process after the loads of one row.
        bulk_mb: the same after the loads of many rows.
        total_mb: resident memory of all its processes at that time.
    """

    start_seconds: float
    rows_mb: float
    bulk_mb: float
    total_mb: float


@dataclass
class Results:
    """All measurements, and the reasons for missing ones.

    Attributes:
        points: one point for each round, by the peer's name and workload.
        footprints: one footprint for each round, by the peer's name.
        missing: reasons, by the peer's name and the missing measurement.
    """

    points: dict[tuple[str, Workload], list[Point]] = field(default_factory=dict)
    footprints: dict[str, list[Footprint]] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, peer: str, workload: Workload, point: Point) -> None:
        """Add the point of one round."""
        self.points.setdefault((peer, workload), []).append(point)

    def median(self, peer: str, workload: Workload) -> Median | None:
        """Return the medians over all rounds; None if the workload was not measured."""
        points = self.points.get((peer, workload))
        return Median.from_points(points) if points else None

    def footprint(self, peer: str) -> Footprint | None:
        """Return the medians over all rounds; None if the peer was not measured."""
        rounds = self.footprints.get(peer)
        if not rounds:
            return None
        return Footprint(
            statistics.median(footprint.start_seconds for footprint in rounds),
            statistics.median(footprint.rows_mb for footprint in rounds),
            statistics.median(footprint.bulk_mb for footprint in rounds),
            statistics.median(footprint.total_mb for footprint in rounds),
        )
