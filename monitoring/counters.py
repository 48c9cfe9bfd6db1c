"""Drift counters of gateways: current, from Prometheus, or from the history of `watch`."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from monitoring.errors import MonitoringError
from monitoring.segments import UNREADABLE
from monitoring.store import append_line, write_whole

METRIC = "client_drift_rows_total"
SECONDS = 10
HISTORY = "drift"
# Counters of a gateway that was not read for this time before the last round are dropped.
MAX_AGE = timedelta(days=1)


class Bin(NamedTuple):
    """The key of a counter: one bin of one column of one version."""

    model: str
    version: int
    column: str
    bin: str


Counts = Counter[Bin]


def scrape(url: str) -> Counts:
    """Return a gateway's counters.

    Raises:
        MonitoringError: it cannot be read.
    """
    address = f"{url.rstrip('/')}/metrics"
    counts: Counts = Counter()
    try:
        for family in text_string_to_metric_families(_get(address).decode()):
            for sample in family.samples:
                if sample.name == METRIC:
                    counts[_bin(sample.labels)] += sample.value  # type: ignore[assignment]
    except (KeyError, ValueError) as error:
        raise MonitoringError(f"{address}: cannot be read: {error}") from error
    return counts


def scrape_all(urls: Iterable[str]) -> Counts:
    """Return the sums of the counters of all gateways.

    Raises:
        MonitoringError: one of them cannot be read.
    """
    total: Counts = Counter()
    for url in resolved(urls):
        total.update(scrape(url))
    return total


def resolved(urls: Iterable[str]) -> list[str]:
    """Return a URL for each address of each host: a scaled service has several.

    A gateway may have an address of each family; it counts once, by its IPv4 address.

    Raises:
        MonitoringError: a host has no address.
    """
    found = []
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise MonitoringError(f"{url}: not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MonitoringError(f"{url}: expected a URL such as http://127.0.0.1:8080")
        if parts.scheme == "https":  # a certificate is for the name
            found.append(url)
            continue
        try:
            infos = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid name
            raise MonitoringError(f"{url}: no address for its host: {error}") from error
        ipv4 = [info for info in infos if info[0] == socket.AF_INET]
        for host in dict.fromkeys(str(info[4][0]) for info in ipv4 or infos):
            shown = f"[{host}]" if ":" in host else host
            found.append(parts._replace(netloc=f"{shown}:{port}").geturl())
    return found


def from_prometheus(url: str, model: str, window: timedelta) -> Counts:
    """Return the increase of the counters that a Prometheus server has scraped.

    Raises:
        MonitoringError: it does not answer.
    """
    quoted = model.replace("\\", "\\\\").replace('"', '\\"')
    seconds = int(window.total_seconds())
    query = (
        f'sum by (model, version, column, bin) (increase({METRIC}{{model="{quoted}"}}[{seconds}s]))'
    )
    address = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        answer = json.loads(_get(address))
        # Prometheus omits empty labels, such as the column of the model's own probability.
        return Counter(
            {
                _bin({"column": "", **one["metric"]}): float(one["value"][1])
                for one in answer["data"]["result"]
            }
        )
    except (LookupError, TypeError, ValueError) as error:
        raise MonitoringError(f"{url}: expected a Prometheus server's response: {error}") from error


class History:
    """The increases of the counters, one line per scrape in `DIRECTORY/drift/DATE.ndjson`.

    Gateways count from their start; increases remain valid when they restart.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / HISTORY
        self._last_file = self._folder / "last.json"
        self._read_at: dict[str, datetime] = {}

    @cached_property
    def _last(self) -> dict[str, Counts]:
        """The counters by address; a damaged file counts as none, so that `watch` can start."""
        with suppress(FileNotFoundError, *UNREADABLE):
            stored = json.loads(self._last_file.read_text(encoding="utf-8"))
            return {url: _counts(counts) for url, counts in stored.items()}
        return {}

    def add(self, url: str, counts: Counts, now: datetime) -> Counts:
        """Record a gateway's counters, and return their increase."""
        before = self._last.get(url, Counter())
        # A restarted gateway counts from 0, even where it has passed the old count.
        if any(counts[one] < count for one, count in before.items()):
            before = Counter()
        grown: Counts = Counter(
            {one: count - before[one] for one, count in counts.items() if count != before[one]}
        )
        if grown:
            self._folder.mkdir(parents=True, exist_ok=True)
            line = {
                "format": 1,
                "time": now.isoformat(timespec="milliseconds"),
                "counts": [[*one, count] for one, count in grown.items()],
            }
            path = self._folder / f"{now:%Y-%m-%d}.ndjson"
            append_line(path, json.dumps(line, ensure_ascii=False))
        self._last = {**self._current(now), url: counts}
        self._read_at[url] = now
        if grown:
            last = {
                url: [[*one, n] for one, n in known.items()] for url, known in self._last.items()
            }
            write_whole(self._last_file, json.dumps(last).encode())
        return grown

    def since(self, start: datetime) -> Counts:
        """Return the increases recorded from a time on."""
        total: Counts = Counter()
        for path in sorted(self._folder.glob("*.ndjson")):
            if path.stem >= f"{start:%Y-%m-%d}":
                for moment, counts in _lines(path):
                    if moment >= start:
                        total.update(counts)
        return total

    def prune(self, before: datetime) -> None:
        """Remove the days before a time."""
        for path in self._folder.glob("*.ndjson"):
            if path.stem < f"{before:%Y-%m-%d}":
                path.unlink()

    def _current(self, now: datetime) -> dict[str, Counts]:
        """Return the counters without those of addresses that are no longer read."""
        # Rounds may be a day apart, and in this one the other gateways are not read yet.
        last_round = max((at for at in self._read_at.values() if at < now), default=now)
        return {
            url: counts
            for url, counts in self._last.items()
            if last_round - self._read_at.setdefault(url, now) < MAX_AGE
        }


def _lines(path: Path) -> Iterator[tuple[datetime, Counts]]:
    for line in path.read_bytes().splitlines():  # str.splitlines splits at U+2028 too
        try:
            stored = json.loads(line)
            found = datetime.fromisoformat(stored["time"]), _counts(stored["counts"])
        except UNREADABLE:  # torn by a crash
            continue
        yield found


def _counts(stored: Iterable[tuple[str, int, str, str, float]]) -> Counts:
    return Counter({Bin(m, v, c, b): count for m, v, c, b, count in stored})


def _bin(labels: dict[str, str]) -> Bin:
    return Bin(labels["model"], int(labels["version"]), labels["column"], labels["bin"])


def _get(address: str) -> bytes:
    if not address.startswith(("http://", "https://")):
        shown = address.partition("?")[0]
        raise MonitoringError(f"{shown}: expected a URL such as http://127.0.0.1:9090")
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            body: bytes = answer.read()
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise MonitoringError(f"{address.partition('?')[0]} does not answer: {reason}") from error
    return body
