"""Quality of served predictions, from labels that arrive later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from monitoring.metrics import Estimate, LabelledRows, expected_metrics
from monitoring.store import KEY, Store
from monitoring.versions import Version

# Labels that arrive more than this after their prediction count as late.
LATE = timedelta(days=7)
QUALITY_COLUMNS = (*KEY, "time", "version", "arm", "share", "probability", "label")


@dataclass(frozen=True)
class ArmQuality:
    """The quality of one version in one arm of a rollout.

    Attributes:
        version: number of the version.
        arm: stable, control or canary; None without a rollout.
        rows: logged rows.
        labelled: rows with a label.
        coverage: share of labelled rows, weighted by 1/share.
        delay_seconds: median and 90th percentile of the time from prediction to label.
        late: labelled rows whose label took longer than `LATE`.
        metrics: metrics on labelled rows, by name.
        expected: estimates from all rows, ignoring labels; empty if class weights have shifted the
            probabilities.
        rows_by_day: day, logged rows and labelled rows.
        labelled_rows: the labelled rows, for charts; None if there is none.
    """

    version: int
    arm: str | None
    rows: int
    labelled: int
    coverage: float
    delay_seconds: tuple[float, float] | None
    late: int
    metrics: Mapping[str, Estimate]
    expected: Mapping[str, Estimate]
    rows_by_day: tuple[tuple[str, int, int], ...]
    labelled_rows: LabelledRows | None = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return JSON; NaN is null."""
        stored = asdict(self)
        del stored["labelled_rows"]
        for group in ("metrics", "expected"):
            for metric in stored[group].values():
                metric.update({k: None if math.isnan(v) else v for k, v in metric.items()})
        return stored


@dataclass(frozen=True)
class Quality:
    """The quality of a model in a window.

    Attributes:
        model: its name.
        start, end: the window.
        arms: each version and arm with rows.
        replaced: labels replaced by a later one for the same row. Labels do not name their model,
            so `replaced` and `unknown` cover all models.
        unknown: labelled rows without a logged prediction, such as those not sampled.
        invalid: labelled rows whose label is neither class.
    """

    model: str
    start: datetime
    end: datetime
    arms: tuple[ArmQuality, ...]
    replaced: int
    unknown: int
    invalid: int

    def as_json(self) -> dict[str, Any]:
        """Return JSON."""
        return {
            "model": self.model,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "replaced": self.replaced,
            "unknown": self.unknown,
            "invalid": self.invalid,
            "arms": [arm.as_json() for arm in self.arms],
        }


def read_labelled_rows(
    store: Store, model: str, start: datetime, names: Sequence[str] = QUALITY_COLUMNS
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a model's predictions since `start` joined with their labels, and all feedback.

    The label is `actual`, and its delay in seconds is `delay`; both are null without a label. If a
    row has several labels, the last one received counts.

    Args:
        store: the directory of the log.
        model: the model's name.
        start: only predictions from this time on.
        names: the columns to read.
    """
    predictions = store.predictions(model, start, names).unique(
        KEY, keep="first", maintain_order=True
    )
    feedback = store.feedback().sort("received", maintain_order=True)
    last = feedback.unique(KEY, keep="last").select(
        *KEY, actual=pl.col("label"), labelled_at=pl.col("time")
    )
    joined = predictions.join(last, on=KEY, how="left", maintain_order="left")
    delay = (pl.col("labelled_at") - pl.col("time")).dt.total_milliseconds() / 1000
    return joined.with_columns(delay=delay), feedback


def measure_quality(
    store: Store, model: str, versions: list[Version], start: datetime, end: datetime
) -> Quality:
    """Return the quality of a model's predictions in a window, by version and arm."""
    rows, feedback = read_labelled_rows(store, model, start)
    rows = rows.filter(pl.col("time") <= end)
    recent = feedback.filter(pl.col("received") >= start)
    keys = recent.select(KEY).unique()
    known = store.predictions(names=KEY, keys=keys)  # of all models
    by_number = {version.number: version for version in versions}
    arms, invalid = [], 0
    groups = rows.drop_nulls("probability").partition_by(["version", "arm"], as_dict=True)
    for (number, arm), group in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] or "")
    ):
        version = by_number.get(int(number))
        if version is None:  # removed since
            continue
        names = version.reference.class_names
        invalid += len(group.filter(pl.col("actual").is_in(names).not_()))
        arms.append(_arm_quality(group, version, arm))
    return Quality(
        model=model,
        start=start,
        end=end,
        arms=tuple(arms),
        replaced=len(recent) - len(keys),
        unknown=len(keys.join(known, on=KEY, how="anti")),
        invalid=invalid,
    )


def _arm_quality(rows: pl.DataFrame, version: Version, arm: str | None) -> ArmQuality:
    names = version.reference.class_names
    rows = rows.with_columns(weight=1 / pl.col("share"), day=pl.col("time").dt.date())
    labelled = rows.filter(pl.col("actual").is_in(names))
    weights = rows["weight"].to_numpy()
    labelled_weights = labelled["weight"].to_numpy()
    labelled_rows, metrics = None, {}
    if len(labelled):
        actual = (labelled["actual"] == names[1]).to_numpy().astype(np.float64)
        labelled_rows = LabelledRows(
            actual, labelled["probability"].to_numpy(), labelled_weights, version.threshold
        )
        metrics = labelled_rows.estimates()
    expected: Mapping[str, Estimate] = {}
    if version.is_calibrated:
        expected = expected_metrics(rows["probability"].to_numpy(), weights, version.threshold)
    delays = labelled["delay"].to_numpy()
    days = rows.group_by("day").agg(rows=pl.len(), labelled=pl.col("actual").is_in(names).sum())
    return ArmQuality(
        version=version.number,
        arm=arm,
        rows=len(rows),
        labelled=len(labelled),
        coverage=float(labelled_weights.sum() / weights.sum()),
        delay_seconds=tuple(np.quantile(delays, [0.5, 0.9]).tolist()) if len(delays) else None,
        late=int((delays > LATE.total_seconds()).sum()),
        metrics=metrics,
        expected=expected,
        rows_by_day=tuple((str(d), r, n) for d, r, n in days.sort("day").rows()),
        labelled_rows=labelled_rows,
    )
