"""Drift counters: read from gateways, from Prometheus, or from the history of `watch`."""

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
from monitoring.store import append_line, write_atomically

METRIC = "client_drift_rows_total"
TIMEOUT_SECONDS = 10
FOLDER = "drift"
# Drop the counters of gateways that were last read this long before the last round: most are gone.
# If one returns without a restart, its rows are counted twice.
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
        MonitoringError: the gateway cannot be read.
    """
    address = f"{url.rstrip('/')}/metrics"
    counts: Counts = Counter()
    try:
        for family in text_string_to_metric_families(_get(address).decode()):
            for sample in family.samples:
                if sample.name == METRIC:
                    counts[_bin(sample.labels)] += sample.value  # type: ignore[assignment]
    except (KeyError, ValueError) as error:
        raise MonitoringError(f"{address} cannot be read: {error}") from error
    return counts


def scrape_all(urls: Iterable[str]) -> Counts:
    """Return the sum of all gateways' counters.

    Raises:
        MonitoringError: a gateway cannot be read.
    """
    total: Counts = Counter()
    for url in resolve_hosts(urls):
        total.update(scrape(url))
    return total


def resolve_hosts(urls: Iterable[str]) -> list[str]:
    """Return a URL for each address of each host, since a scaled service has several.

    IPv6 addresses are skipped if a host has IPv4 ones, so that no gateway is counted twice.

    Raises:
        MonitoringError: a host has no address.
    """
    resolved = []
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise MonitoringError(f"{url}: not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MonitoringError(f"{url}: expected a URL such as http://127.0.0.1:8080")
        if parts.scheme == "https":  # certificates name the host
            resolved.append(url)
            continue
        try:
            infos = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid name
            raise MonitoringError(f"{url}: no address for its host: {error}") from error
        ipv4 = [info for info in infos if info[0] == socket.AF_INET]
        for host in dict.fromkeys(str(info[4][0]) for info in ipv4 or infos):
            netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            resolved.append(parts._replace(netloc=netloc).geturl())
    return resolved


def query_prometheus(url: str, model: str, window: timedelta) -> Counts:
    """Return the increase in the counters that a Prometheus server has scraped.

    Raises:
        MonitoringError: the server cannot be read.
    """
    quoted = model.replace("\\", "\\\\").replace('"', '\\"')
    seconds = int(window.total_seconds())
    query = (
        f'sum by (model, version, column, bin) (increase({METRIC}{{model="{quoted}"}}[{seconds}s]))'
    )
    address = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        response = json.loads(_get(address))
        # Prometheus omits empty labels, such as the column of the model's own probability.
        return Counter(
            {
                _bin({"column": "", **series["metric"]}): float(series["value"][1])
                for series in response["data"]["result"]
            }
        )
    except (LookupError, TypeError, ValueError) as error:
        raise MonitoringError(f"{url}: expected a Prometheus server's response: {error}") from error


class History:
    """Increases in the counters, one line per scrape in `DIRECTORY/drift/DATE.ndjson`.

    Gateways reset their counters when they restart; increases remain valid.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._last_file = self._folder / "last.json"
        self._read_at: dict[str, datetime] = {}

    @cached_property
    def _last(self) -> dict[str, Counts]:
        """The last counters by URL; a damaged file is ignored so that `watch` can start."""
        with suppress(FileNotFoundError, *UNREADABLE):
            stored = json.loads(self._last_file.read_text(encoding="utf-8"))
            return {url: _counts(counts) for url, counts in stored.items()}
        return {}

    def add(self, url: str, counts: Counts, now: datetime) -> Counts:
        """Record a gateway's counters and return their increase."""
        before = self._last.get(url, Counter())
        # A single lower counter means that the gateway restarted, which resets all counters.
        if any(counts[key] < count for key, count in before.items()):
            before = Counter()
        increase: Counts = Counter(
            {key: count - before[key] for key, count in counts.items() if count != before[key]}
        )
        if increase:
            self._folder.mkdir(parents=True, exist_ok=True)
            line = {
                "format": 1,
                "time": now.isoformat(timespec="milliseconds"),
                "counts": [[*key, count] for key, count in increase.items()],
            }
            path = self._folder / f"{now:%Y-%m-%d}.ndjson"
            append_line(path, json.dumps(line, ensure_ascii=False))
        self._last = {**self._recently_read(now), url: counts}
        self._read_at[url] = now
        if increase:
            last = {
                url: [[*key, n] for key, n in known.items()] for url, known in self._last.items()
            }
            write_atomically(self._last_file, json.dumps(last).encode())
        return increase

    def since(self, start: datetime) -> Counts:
        """Return the total increase since a time."""
        total: Counts = Counter()
        for path in sorted(self._folder.glob("*.ndjson")):
            if path.stem >= f"{start:%Y-%m-%d}":
                for time, counts in _read_lines(path):
                    if time >= start:
                        total.update(counts)
        return total

    def prune(self, before: datetime) -> None:
        """Remove the files of days before a time."""
        for path in self._folder.glob("*.ndjson"):
            if path.stem < f"{before:%Y-%m-%d}":
                path.unlink()

    def _recently_read(self, now: datetime) -> dict[str, Counts]:
        """Return the last counters, without gateways that are no longer read."""
        # Compare with the last round: rounds may be a day apart, and this one is incomplete.
        last_round = max((at for at in self._read_at.values() if at < now), default=now)
        return {
            url: counts
            for url, counts in self._last.items()
            if last_round - self._read_at.setdefault(url, now) < MAX_AGE
        }


def _read_lines(path: Path) -> Iterator[tuple[datetime, Counts]]:
    for line in path.read_bytes().splitlines():  # str.splitlines splits at U+2028 too
        try:
            stored = json.loads(line)
            increase = datetime.fromisoformat(stored["time"]), _counts(stored["counts"])
        except UNREADABLE:  # torn by a crash
            continue
        yield increase


def _counts(stored: Iterable[tuple[str, int, str, str, float]]) -> Counts:
    return Counter({Bin(m, v, c, b): count for m, v, c, b, count in stored})


def _bin(labels: dict[str, str]) -> Bin:
    return Bin(labels["model"], int(labels["version"]), labels["column"], labels["bin"])


def _get(address: str) -> bytes:
    if not address.startswith(("http://", "https://")):
        shown = address.partition("?")[0]
        raise MonitoringError(f"{shown}: expected a URL such as http://127.0.0.1:9090")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:
            body: bytes = response.read()
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise MonitoringError(f"{address.partition('?')[0]} cannot be read: {reason}") from error
    return body
