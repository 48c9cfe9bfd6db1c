"""Triggers of retraining: a schedule, quality below a floor, or drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from monitoring.drift import ColumnDrift
from monitoring.metrics import LOWER_IS_BETTER
from monitoring.quality import ArmQuality, Quality
from monitoring.retraining import Run


@dataclass(frozen=True)
class Policy:
    """When to retrain.

    Attributes:
        every: interval of the schedule; None for no schedule.
        floors: limits by metric; retrain if a metric's entire confidence interval is worse.
        on_drift: retrain if a column's verdict is alarm.
        min_labels: labelled rows that every trigger requires, including drift.
        cooldown: minimum time between two runs, regardless of their results.
        max_per_day: maximum number of runs in 24 hours.
    """

    every: timedelta | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    on_drift: bool = False
    min_labels: int = 200
    cooldown: timedelta = timedelta(hours=6)
    max_per_day: int = 2

    def due(
        self,
        now: datetime,
        runs: Sequence[Run],
        trained_at: datetime | None,
        quality: Quality | None,
        drift: Sequence[ColumnDrift],
    ) -> str | None:
        """Return the reason to retrain now, None if there is none.

        Args:
            now: the current time.
            runs: earlier runs, oldest first.
            trained_at: when the newest version was trained.
            quality: quality on labelled rows.
            drift: drift of each column.
        """
        times = [datetime.fromisoformat(run.time) for run in runs]
        if times and now - times[-1] < self.cooldown:
            return None
        if sum(now - time < timedelta(days=1) for time in times) >= self.max_per_day:
            return None
        arm = _main_arm(quality)
        if arm is None or arm.labelled < self.min_labels:
            return None
        return (
            self._floor_reason(arm)
            or self._drift_reason(arm, drift)
            or self._schedule_reason(
                now, max([*times, *([trained_at] if trained_at else [])], default=None)
            )
        )

    def _floor_reason(self, arm: ArmQuality) -> str | None:
        for name, floor in self.floors.items():
            metric = arm.metrics[name]
            if name in LOWER_IS_BETTER and metric.low > floor:
                breach = f"above {floor:g}"
            elif name not in LOWER_IS_BETTER and metric.high < floor:
                breach = f"below {floor:g}"
            else:
                continue
            return (
                f"quality: {name} {metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f}) of "
                f"version {arm.version} is {breach} on {arm.labelled:,} labelled rows"
            )
        return None

    def _drift_reason(self, arm: ArmQuality, drift: Sequence[ColumnDrift]) -> str | None:
        alarms = [column for column in drift if column.shift.verdict == "alarm"]
        if not self.on_drift or not alarms:
            return None
        names = ", ".join(
            f"{alarm.column or 'probability'} (PSI {alarm.shift.psi:.2f})" for alarm in alarms[:3]
        )
        return f"drift: {names}, with {arm.labelled:,} labelled rows"

    def _schedule_reason(self, now: datetime, last: datetime | None) -> str | None:
        if self.every is None or (last is not None and now - last < self.every):
            return None
        return f"schedule: every {_format_duration(self.every)}"


def _main_arm(quality: Quality | None) -> ArmQuality | None:
    """Return the newest version's arm with the most labels, ignoring canaries."""
    arms = [arm for arm in quality.arms if arm.arm != "canary"] if quality else []
    return max(arms, key=lambda arm: (arm.version, arm.labelled), default=None)


def _format_duration(duration: timedelta) -> str:
    """Format a duration in the largest unit that divides it."""
    seconds = int(duration.total_seconds())
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds} s"
