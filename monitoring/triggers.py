"""Triggers of a retraining: a schedule, quality below a floor, or drift with enough labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from monitoring.drift import ColumnDrift
from monitoring.metrics import LESS_IS_BETTER
from monitoring.quality import ArmQuality, Quality
from monitoring.retraining import Run


@dataclass(frozen=True)
class Policy:
    """When to retrain.

    Attributes:
        every: schedule; None for no schedule.
        floors: by metric; retrain if its whole interval is worse.
        on_drift: retrain if the drift of a column is an alarm.
        min_labels: labelled rows that every trigger needs, drift included.
        cooldown: minimum time between two runs, whatever their result.
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
        published: datetime | None,
        quality: Quality | None,
        drift: Sequence[ColumnDrift],
    ) -> str | None:
        """Return the reason to retrain now; None if there is none.

        Args:
            now: the time.
            runs: earlier runs, oldest first.
            published: when the newest version was trained.
            quality: quality on labelled rows.
            drift: drift of each column.
        """
        times = [datetime.fromisoformat(run.time) for run in runs]
        if times and now - times[-1] < self.cooldown:
            return None
        if sum(now - moment < timedelta(days=1) for moment in times) >= self.max_per_day:
            return None
        arm = _main_arm(quality)
        if arm is None or arm.labelled < self.min_labels:
            return None
        return (
            self._below_floor(arm)
            or self._drifted(arm, drift)
            or self._scheduled(
                now, max([*times, *([published] if published else [])], default=None)
            )
        )

    def _below_floor(self, arm: ArmQuality) -> str | None:
        for name, floor in self.floors.items():
            one = arm.metrics[name]
            if name in LESS_IS_BETTER and one.low > floor:
                side = f"above {floor:g}"
            elif name not in LESS_IS_BETTER and one.high < floor:
                side = f"below {floor:g}"
            else:
                continue
            return (
                f"quality: {name} {one.value:.4f} ({one.low:.4f} to {one.high:.4f}) of version "
                f"{arm.version} is {side} on {arm.labelled:,} labelled rows"
            )
        return None

    def _drifted(self, arm: ArmQuality, drift: Sequence[ColumnDrift]) -> str | None:
        alarms = [one for one in drift if one.shift.verdict == "alarm"]
        if not self.on_drift or not alarms:
            return None
        names = ", ".join(
            f"{one.column or 'probability'} (PSI {one.shift.psi:.2f})" for one in alarms[:3]
        )
        return f"drift: {names}, with {arm.labelled:,} labelled rows"

    def _scheduled(self, now: datetime, last: datetime | None) -> str | None:
        if self.every is None or (last is not None and now - last < self.every):
            return None
        return f"schedule: every {_length(self.every)}"


def _main_arm(quality: Quality | None) -> ArmQuality | None:
    """Return the arm with the most labels of the newest version outside the canary."""
    arms = [arm for arm in quality.arms if arm.arm != "canary"] if quality else []
    return max(arms, key=lambda arm: (arm.version, arm.labelled), default=None)


def _length(duration: timedelta) -> str:
    """Format a duration in its largest whole unit."""
    seconds = int(duration.total_seconds())
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds} s"
