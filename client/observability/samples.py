"""Samples of Prometheus metrics at one moment, summed over labels."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from prometheus_client import Metric

Labels = Mapping[str, str]
LabelFilter = Callable[[Labels], bool]


@dataclass(frozen=True)
class Buckets:
    """A histogram.

    Attributes:
        bounds: the upper bound of each bucket but the last, which has none.
        counts: the number of observations in each bucket, not cumulative.
        sum: the sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Return a quantile, interpolated within its bucket as Prometheus does.

        A quantile beyond the last bound is that bound; without observations it is None.

        Args:
            q: from 0 to 1.
        """
        if not self.count:
            return None
        rank = q * self.count
        cumulative = list(accumulate(self.counts))
        index = bisect_left(cumulative, rank)
        if index >= len(self.bounds):
            return self.bounds[-1] if self.bounds else None
        lower = self.bounds[index - 1] if index else 0.0
        before = cumulative[index - 1] if index else 0
        fraction = (rank - before) / self.counts[index] if self.counts[index] else 0.0
        return lower + (self.bounds[index] - lower) * fraction


class Samples:
    """All samples by name."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._by_name: defaultdict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for metric in metrics:
            for sample in metric.samples:
                self._by_name[sample.name].append((sample.labels, sample.value))

    def total(self, name: str, where: LabelFilter = lambda labels: True) -> float:
        """Return the sum of the series with matching labels; 0 if there are none."""
        return math.fsum(value for labels, value in self._by_name[name] if where(labels))

    def series(self, name: str) -> Sequence[tuple[Labels, float]]:
        """Return the labels and the value of each series."""
        return self._by_name[name]

    def count_by(
        self, name: str, label: str, where: LabelFilter = lambda labels: True
    ) -> dict[str, int]:
        """Return counts by the values of a label, sorted by value."""
        counts: defaultdict[str, float] = defaultdict(float)
        for labels, value in self._by_name[name]:
            if where(labels):
                counts[labels[label]] += value
        return {key: int(counts[key]) for key in sorted(counts)}

    def groups(self, name: str, *labels: str) -> list[tuple[str, ...]]:
        """Return the combinations of values that some labels have, sorted."""
        series = self._by_name[name]
        return sorted({tuple(values[label] for label in labels) for values, _ in series})

    def buckets(self, name: str, where: LabelFilter = lambda labels: True) -> Buckets:
        """Return the sum of the histograms with matching labels, which have the same bounds."""
        cumulative: defaultdict[float, float] = defaultdict(float)
        for labels, value in self._by_name[f"{name}_bucket"]:
            if where(labels):
                cumulative[float(labels["le"])] += value
        bounds = sorted(cumulative)
        totals = [0.0, *(cumulative[bound] for bound in bounds)]
        counts = (int(after - before) for before, after in pairwise(totals))
        return Buckets(
            tuple(bound for bound in bounds if math.isfinite(bound)),
            tuple(counts),
            self.total(f"{name}_sum", where),
        )


def summarize(buckets: Buckets) -> dict[str, Any]:
    """Return a histogram of seconds as JSON, with its median and its 99th percentile."""
    return {
        "p50": buckets.quantile(0.5),
        "p99": buckets.quantile(0.99),
        "count": buckets.count,
        "sum": buckets.sum,
        "bounds": buckets.bounds,
        "counts": buckets.counts,
    }
