"""Rounds of `watch`: counters, compaction, drift, quality and retraining."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from monitoring import compaction
from monitoring.counters import History, resolve_hosts, scrape
from monitoring.drift import ColumnDrift, busiest_version, measure_drift
from monitoring.errors import MonitoringError
from monitoring.exporter import Exporter
from monitoring.quality import Quality, measure_quality
from monitoring.retraining import Recipe, read_history, retrain, run_summary
from monitoring.store import Store
from monitoring.triggers import Policy
from monitoring.versions import Version, find_versions

COMPACTION_INTERVAL = timedelta(hours=1)
# Leave time for `ship` to find a segment before it is compacted.
MIN_SEGMENT_AGE_SECONDS = 60
logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class WatchSettings:
    """The settings of `watch`.

    Attributes:
        models: directory of all models.
        model: name of the model.
        log: directory of the log.
        gateways: URLs of the gateways.
        window: period over which drift and quality are computed.
        keep_days, keep_bytes: retention; None keeps everything.
        recipe: settings of retraining; None never retrains.
        policy: when to retrain.
    """

    models: Path
    model: str
    log: Path
    gateways: Sequence[str]
    window: timedelta
    keep_days: int | None
    keep_bytes: int | None
    recipe: Recipe | None
    policy: Policy


class Watcher:
    """Runs rounds; an error in one step is reported and does not stop the others."""

    def __init__(
        self, settings: WatchSettings, exporter: Exporter, report: Callable[[str], None]
    ) -> None:
        self._settings, self._exporter, self._report = settings, exporter, report
        settings.log.mkdir(parents=True, exist_ok=True)
        self._store = Store(settings.log)
        self._history = History(settings.log)
        self._compacted: datetime | None = None
        self._verdicts: dict[tuple[int, str], str] = {}
        self._failed = False

    def run_round(self, now: datetime) -> bool:
        """Run one round and return whether all steps succeeded."""
        self._failed = False
        self._scrape(now)
        self._try(lambda: self._compact(now))
        published = self._try(lambda: find_versions(self._settings.models, self._settings.model))
        drift = self._try(lambda: self._drift(published, now)) if published else None
        if not drift:
            self._exporter.set_drift(0, [])  # clear alarms of earlier rounds
        quality = self._try(lambda: self._quality(published, now)) if published else None
        self._exporter.set_quality(quality.arms if quality else [])
        if published:
            self._try(lambda: self._retrain(published[-1], quality, drift or [], now))
        self._exporter.finish(now.timestamp(), self._failed)
        return not self._failed

    def _try(self, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except (MonitoringError, OSError) as error:
            self._report(f"error: {error}")
        except Exception as error:
            self._report(f"error: {type(error).__name__}: {error}")
            logger.exception("a step of the round failed")
        self._failed = True
        return None

    def _scrape(self, now: datetime) -> None:
        for gateway in self._settings.gateways:
            for url in self._try(partial(resolve_hosts, [gateway])) or []:
                self._try(partial(self._record_counters, url, now))

    def _record_counters(self, url: str, now: datetime) -> None:
        self._history.add(url, scrape(url), now)

    def _compact(self, now: datetime) -> None:
        if self._compacted is not None and now - self._compacted < COMPACTION_INTERVAL:
            return
        settings = self._settings
        compaction.compact(
            self._store, now, lambda done, total: None, settings.keep_days, MIN_SEGMENT_AGE_SECONDS
        )
        compaction.retain(self._store, now, settings.keep_days, settings.keep_bytes)
        self._compacted = now

    def _drift(self, published: Sequence[Version], now: datetime) -> list[ColumnDrift]:
        counts = self._history.since(now - self._settings.window)
        version = busiest_version(published, self._settings.model, counts)
        if version is None:
            return []
        drifts = measure_drift(version, self._settings.model, counts)
        self._exporter.set_drift(version.number, drifts)
        for drift in drifts:
            verdict, key = drift.shift.verdict, (version.number, drift.column)
            name = drift.column or "probability"
            if verdict != self._verdicts.get(key, "ok") and verdict in ("warn", "alarm"):
                self._report(
                    f"{verdict}: {name} of version {version.number} has drifted: PSI "
                    f"{drift.shift.psi:.3f}, noise {drift.shift.psi_limit:.3f}, {drift.rows:,} rows"
                )
            self._verdicts[key] = verdict
        return drifts

    def _quality(self, published: list[Version], now: datetime) -> Quality:
        settings = self._settings
        start = now - settings.window
        return measure_quality(self._store, settings.model, published, start, now)

    def _retrain(
        self,
        newest: Version,
        quality: Quality | None,
        drift: Sequence[ColumnDrift],
        now: datetime,
    ) -> None:
        if self._settings.recipe is None:
            return
        trained_at = newest.manifest.get("trained_at")
        reason = self._settings.policy.due(
            now,
            read_history(self._store, self._settings.model),
            datetime.fromisoformat(trained_at) if trained_at else None,
            quality,
            drift,
        )
        if reason is None:
            return
        self._report(f"retraining: {reason}")
        run = retrain(self._store, self._settings.recipe, reason, now)
        self._exporter.count_run(run)
        self._failed |= run.result == "failed"
        self._report(run_summary(run))
