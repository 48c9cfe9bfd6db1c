"""Rounds of `watch`: counters, drift, compaction, quality, and a retraining if one is due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from monitoring import compaction
from monitoring.counters import History, resolved, scrape
from monitoring.drift import ColumnDrift, busiest, drift
from monitoring.errors import MonitoringError
from monitoring.exporter import Exporter
from monitoring.quality import Quality, quality
from monitoring.retraining import Recipe, history, retrain, run_summary
from monitoring.store import Store
from monitoring.triggers import Policy
from monitoring.versions import Version, versions

COMPACTION = timedelta(hours=1)
# A shipper must find a segment before it is compacted.
SHIPPER_SECONDS = 60
logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Watch:
    """The settings of `watch`.

    Attributes:
        models: directory of all models.
        model: name of the model.
        log: directory of the log.
        gateways: URLs of the gateways.
        window: time over which drift and quality are computed.
        keep_days, keep_bytes: retention; None keeps all.
        recipe: settings of retrainings; None to never retrain.
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
    """Runs rounds; an error in one part is reported, and does not stop the others."""

    def __init__(self, settings: Watch, exporter: Exporter, report: Callable[[str], None]) -> None:
        self._settings, self._exporter, self._report = settings, exporter, report
        settings.log.mkdir(parents=True, exist_ok=True)
        self._store = Store(settings.log)
        self._history = History(settings.log)
        self._compacted: datetime | None = None
        self._verdicts: dict[tuple[int, str], str] = {}
        self._failed = False

    def round(self, now: datetime) -> bool:
        """Run one round, and return whether all parts succeeded."""
        self._failed = False
        self._scrape(now)
        self._tried(lambda: self._compact(now))
        published = self._tried(lambda: versions(self._settings.models, self._settings.model))
        drifted = self._tried(lambda: self._drift(published, now)) if published else None
        if not drifted:
            self._exporter.show_drift(0, [])  # an alarm must not outlive its rows
        found = self._tried(lambda: self._quality(published, now)) if published else None
        self._exporter.show_quality(found.arms if found else [])
        if published:
            self._tried(lambda: self._retrain(published[-1], found, drifted or [], now))
        self._exporter.finish(now.timestamp(), self._failed)
        return not self._failed

    def _tried(self, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except (MonitoringError, OSError) as error:
            self._report(f"error: {error}")
        except Exception as error:
            self._report(f"error: {type(error).__name__}: {error}")
            logger.exception("a part of a round has failed")
        self._failed = True
        return None

    def _scrape(self, now: datetime) -> None:
        for name in self._settings.gateways:
            for url in self._tried(partial(resolved, [name])) or []:
                self._tried(partial(self._scrape_one, url, now))

    def _scrape_one(self, url: str, now: datetime) -> None:
        self._history.add(url, scrape(url), now)

    def _compact(self, now: datetime) -> None:
        if self._compacted is not None and now - self._compacted < COMPACTION:
            return
        settings = self._settings
        compaction.compact(
            self._store, now, lambda done, total: None, settings.keep_days, SHIPPER_SECONDS
        )
        compaction.retain(self._store, now, settings.keep_days, settings.keep_bytes)
        self._compacted = now

    def _drift(self, published: Sequence[Version], now: datetime) -> list[ColumnDrift]:
        counts = self._history.since(now - self._settings.window)
        version = busiest(published, self._settings.model, counts)
        if version is None:
            return []
        found = drift(version, self._settings.model, counts)
        self._exporter.show_drift(version.number, found)
        for one in found:
            verdict, key = one.shift.verdict, (version.number, one.column)
            name = one.column or "probability"
            if verdict != self._verdicts.get(key, "ok") and verdict in ("warn", "alarm"):
                self._report(
                    f"{verdict}: {name} of version {version.number} has drifted: PSI "
                    f"{one.shift.psi:.3f}, noise {one.shift.psi_limit:.3f}, {one.rows:,} rows"
                )
            self._verdicts[key] = verdict
        return found

    def _quality(self, published: list[Version], now: datetime) -> Quality:
        settings = self._settings
        start = now - settings.window
        return quality(self._store, settings.model, published, start, now)

    def _retrain(
        self,
        newest: Version,
        found: Quality | None,
        drifted: Sequence[ColumnDrift],
        now: datetime,
    ) -> None:
        if self._settings.recipe is None:
            return
        trained_at = newest.manifest.get("trained_at")
        reason = self._settings.policy.due(
            now,
            history(self._store, self._settings.model),
            datetime.fromisoformat(trained_at) if trained_at else None,
            found,
            drifted,
        )
        if reason is None:
            return
        self._report(f"retraining: {reason}")
        run = retrain(self._store, self._settings.recipe, reason, now)
        self._exporter.count_run(run)
        self._failed |= run.result == "failed"
        self._report(run_summary(run))
