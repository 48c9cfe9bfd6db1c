"""Drift compared with offline computations, chance, and seeded drifts."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from datetime import timedelta
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from scipy.spatial.distance import jensenshannon

from monitoring.__main__ import main
from monitoring.compaction import retain
from monitoring.counters import Bin, History, query_prometheus, resolve_hosts, scrape
from monitoring.drift import busiest_version, measure_drift
from monitoring.errors import MonitoringError
from monitoring.statistics import ALPHA, chi_square_quantile, shift
from monitoring.store import Store
from monitoring.versions import Version
from tests.support import prediction_log
from tests.support.names import resolve
from tests.support.prediction_log import NOON, exposition

COLUMNS = 10
WINDOWS = 1000
TRAINING_ROWS = 3000


def test_statistics_match_an_offline_computation() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        bins = int(random.integers(3, 13))
        shares = random.dirichlet(np.ones(bins))
        counts = random.multinomial(2000, random.dirichlet(np.ones(bins))).astype(np.float64)
        training_rows = 5000
        result = shift(counts, shares, training_rows, columns=3, ordered_bins=bins)
        p, q = counts + 0.5, training_rows * shares + 0.5
        p, q = p / p.sum(), q / q.sum()
        assert result.psi == pytest.approx(sum((p - q) * np.log(p / q)), abs=1e-6)
        assert result.js == pytest.approx(jensenshannon(p, q, 2), abs=1e-6)
        chi = stats.chi2_contingency([counts, training_rows * shares], correction=False)
        assert result.chi_square == pytest.approx(chi.statistic, rel=1e-6)
        assert result.chi_square_limit == pytest.approx(
            stats.chi2.ppf(1 - ALPHA / 3, bins - 1), abs=1e-6
        )
        cumulative = np.cumsum(counts / counts.sum()) - np.cumsum(shares)
        assert result.ks == pytest.approx(np.abs(cumulative).max(), abs=1e-6)


def test_chi_square_quantiles_match_scipy() -> None:
    for degrees in range(1, 13):
        for probability in (0.9, 0.99, 1 - ALPHA / 200):
            expected = stats.chi2.ppf(probability, degrees)
            assert chi_square_quantile(probability, degrees) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows", [100, 1000, 10_000, 100_000])
def test_false_alarm_rate_is_at_most_alpha(rows: int) -> None:
    random = np.random.default_rng(rows)
    distributions = random.dirichlet(np.full(10, 5.0), COLUMNS)
    alarms = exceeded = 0
    for _ in range(WINDOWS):
        shifts = [
            shift(
                random.multinomial(rows, shares).astype(np.float64),
                random.multinomial(TRAINING_ROWS, shares) / TRAINING_ROWS,
                TRAINING_ROWS,
                columns=COLUMNS,
            )
            for shares in distributions
        ]
        alarms += any(result.verdict in ("warn", "alarm") for result in shifts)
        exceeded += any(result.psi > result.psi_limit for result in shifts)
    expected = ALPHA * WINDOWS
    assert alarms <= exceeded <= expected + 3 * np.sqrt(expected)


def test_fixed_psi_limit_is_exceeded_by_chance() -> None:
    random, shares = np.random.default_rng(0), np.full(10, 0.1)
    exceeded = []
    for _ in range(100):
        shifts = [
            shift(
                random.multinomial(100, shares).astype(np.float64),
                random.multinomial(455, shares) / 455,
                455,
                columns=30,
            )
            for _ in range(30)
        ]
        exceeded.append(max(result.psi for result in shifts) > 0.2)
    assert np.mean(exceeded) == pytest.approx(0.8, abs=0.1)


def test_too_few_rows_do_not_pass_as_ok() -> None:
    shares = np.full(10, 0.1)
    assert shift(np.full(10, 2.0), shares, TRAINING_ROWS, columns=30).verdict == "too few rows"
    assert shift(np.zeros(10), shares, TRAINING_ROWS).verdict == "too few rows"
    assert shift(np.full(10, 200.0), shares, TRAINING_ROWS, columns=30).verdict == "ok"


def column(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "numeric",
        "edges": list(range(9)),
        "shares": [0.1] * 10,
        "missing": 0.0,
        "other": 0.0,
        "contribution": 1.0,
        **changes,
    }


@pytest.fixture
def version(tmp_path: Path) -> Version:
    city = {"kind": "categorical", "values": ["a", "b"], "shares": [0.6, 0.3], "other": 0.1}
    columns = [column("x"), column("y", contribution=3.0), column("still"), column("city", **city)]
    return Version(prediction_log.write_version(tmp_path / "models", columns=columns))


def sample_counts(
    version: Version, drifted_shares: dict[str, list[float]], rows: int = 5000
) -> Counter[Bin]:
    """Return counts of rows drawn from the reference, or from drifted shares."""
    random = np.random.default_rng(4)
    counts: Counter[Bin] = Counter()
    for feature in version.reference.columns:
        shares = np.array(drifted_shares.get(feature.name, feature.shares))
        for bin_name, count in zip(
            feature.bins, random.multinomial(rows, shares / shares.sum()), strict=True
        ):
            counts[Bin("m", 1, feature.name, bin_name)] += int(count)
    return counts


SEEDED_DRIFT = {
    "x": [0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0, 0],
    "y": [0.05] * 5 + [0.15] * 5 + [0, 0],
    "city": [0.6, 0.3, 0.0, 0.1],
}


def test_seeded_drifts_are_found_and_ranked_by_impact(version: Version) -> None:
    drifts = measure_drift(version, "m", sample_counts(version, SEEDED_DRIFT))
    # y contributes three times as much as x, which has drifted further.
    assert [drift.column for drift in drifts][:3] == ["", "y", "x"]
    by_name = {drift.column: drift for drift in drifts}
    assert {name: drift.shift.verdict for name, drift in by_name.items()} == {
        "": "ok",
        "y": "alarm",
        "x": "alarm",
        "still": "ok",
        "city": "ok",
    }
    assert by_name["x"].shift.psi > by_name["y"].shift.psi
    missing = measure_drift(version, "m", sample_counts(version, {"x": [0.05] * 10 + [0.5, 0]}))
    assert missing[1].column == "x"
    assert missing[1].missing == pytest.approx(0.5, abs=0.05)
    other = measure_drift(version, "m", sample_counts(version, {"city": [0.3, 0.1, 0, 0.6]}))
    assert other[1].column == "city"
    assert other[1].other == pytest.approx(0.6, abs=0.05)


def test_busiest_version_does_not_depend_on_the_number_of_columns(tmp_path: Path) -> None:
    columns = [column("x"), column("y"), column("z")]
    versions = [
        Version(prediction_log.write_version(tmp_path, number, columns=columns[: 2 * number - 1]))
        for number in (1, 2)
    ]
    counts = Counter({Bin("m", 1, "x", b): 30 for b in "01"})
    counts.update({Bin("m", 2, name, b): 20 for name in "xyz" for b in "01"})
    assert busiest_version(versions, "m", counts) is versions[0]


def test_drift_command_sums_the_counters_of_all_gateways(
    version: Version, gateway: HTTPServer
) -> None:
    gateway.text = exposition(sample_counts(version, SEEDED_DRIFT))  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{gateway.server_port}"
    models = version.directory.parents[1]
    command = ["drift", f"--models={models}", "--model=m", f"--gateways={url},{url}/"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["version"] == 1
    y = report["columns"][1]
    assert (y["column"], y["rows"], y["verdict"]) == ("y", 10_000, "alarm")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0
    assert re.search(r"^y +10,000 .*alarm", result.output, re.MULTILINE)

    for options, message in (
        (["--model=n"], "has no version; --models and --model"),
        (["--version=7"], "'m' has no version 7; published versions: 1"),
        (["--gateways=http://127.0.0.1:1"], "cannot be read"),
        (["--gateways=http://a..b/"], "no address for its host"),
        (["--gateways=https://a..b/"], "cannot be read"),
        (["--window=1d"], "--window needs a history"),
        ([f"--log={models}"], "--log and --prometheus require --window"),
        ([f"--log={models}", "--prometheus=http://127.0.0.1:1"], "expected one of --log and"),
        (["--window=1"], "expected a duration such as 30m"),
    ):
        failed = CliRunner().invoke(main, [*command, *options])
        assert failed.exit_code in (1, 2)
        assert message in failed.output
    for counts, message in (
        (Counter({Bin("m", 1, "x", "0"): 0}), "no rows were counted: send requests"),
        (Counter({Bin("m", 3, "x", "0"): 1}), "rows of 'm' were counted for versions 3, none of"),
        (Counter({Bin("n", 1, "x", "0"): 1}), "no row of 'm' was counted; expected a model with"),
    ):
        gateway.text = exposition(counts)  # type: ignore[attr-defined]
        failed = CliRunner().invoke(main, command)
        assert (failed.exit_code, message in failed.output) == (1, True), failed.output


def test_gateway_with_ipv4_and_ipv6_addresses_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"both": ("::1", "127.0.0.1"), "ipv6": ("::1",)})
    urls = ["http://127.0.0.1:8080/", "http://[::1]:8080"]
    assert resolve_hosts(["http://both:8080/", "http://ipv6:8080"]) == urls


def test_history_survives_restarts_and_torn_files(tmp_path: Path) -> None:
    first, second = Bin("m", 1, "x", "0"), Bin("m", 1, "Preis\x85", "missing")
    history = History(tmp_path)
    history.add("a", Counter({first: 5}), NOON)
    history.add("b", Counter({first: 7, second: 1}), NOON)
    history = History(tmp_path)
    history.add("a", Counter({first: 8}), NOON + timedelta(minutes=1))
    history.add("b", Counter({first: 2}), NOON + timedelta(minutes=1))  # restarted
    assert history.since(NOON) == Counter({first: 5 + 7 + 3 + 2, second: 1})
    assert history.since(NOON + timedelta(seconds=30)) == Counter({first: 3 + 2})
    file = next(tmp_path.glob("drift/*.ndjson"))
    file.write_bytes(file.read_bytes() + '{"torn in ö'.encode()[:-1])
    assert history.since(NOON)[second] == 1
    history.add("a", Counter({first: 9}), NOON + timedelta(minutes=2))
    assert history.since(NOON)[first] == 5 + 7 + 3 + 2 + 1
    (tmp_path / "drift" / "last.json").write_text("")  # as after a power failure
    assert History(tmp_path).add("c", Counter({second: 1}), NOON) == Counter({second: 1})
    retain(Store(tmp_path), NOON + timedelta(days=2), keep_days=1, keep_bytes=None)
    assert not history.since(NOON)


def test_missing_counter_marks_a_restart_of_all_counters(tmp_path: Path) -> None:
    slow, fast = Bin("m", 1, "x", "0"), Bin("m", 1, "x", "1")
    history = History(tmp_path)
    history.add("a", Counter({slow: 100, fast: 100}), NOON)
    assert history.add("a", Counter({fast: 150}), NOON) == Counter({fast: 150})
    assert history.add("a", Counter({fast: 160}), NOON) == Counter({fast: 10})


def test_increase_that_cannot_be_written_is_counted_later(tmp_path: Path) -> None:
    history, key = History(tmp_path), Bin("m", 1, "x", "0")
    history.add("a", Counter({key: 5}), NOON)
    tomorrow = NOON + timedelta(days=1)
    (tmp_path / "drift" / f"{tomorrow:%Y-%m-%d}.ndjson").mkdir()
    with pytest.raises(IsADirectoryError):
        history.add("a", Counter({key: 7}), tomorrow)
    (tmp_path / "drift" / f"{tomorrow:%Y-%m-%d}.ndjson").rmdir()
    history.add("a", Counter({key: 8}), tomorrow)
    assert history.since(tomorrow) == Counter({key: 3})


def test_addresses_absent_for_a_day_are_dropped(tmp_path: Path) -> None:
    key, last_file = Bin("m", 1, "x", "0"), tmp_path / "drift" / "last.json"
    history = History(tmp_path)
    for hours, urls in ((0, "ab"), (1, "b"), (23, "b"), (25, "b"), (26, "b")):
        for url in urls:
            history.add(url, Counter({key: hours + 1}), NOON + timedelta(hours=hours))
        if hours == 23:
            assert set(json.loads(last_file.read_text())) == {"a", "b"}
    assert list(json.loads(last_file.read_text())) == ["b"]


def test_rounds_can_be_days_apart(tmp_path: Path) -> None:
    history, key = History(tmp_path), Bin("m", 1, "x", "0")
    for day in range(3):
        increases = [
            history.add(url, Counter({key: day + 1}), NOON + timedelta(days=2 * day))
            for url in "abc"
        ]
        assert increases == [Counter({key: 1})] * 3


@pytest.mark.parametrize(
    "response",
    [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx 1"],
    ids=["not HTTP", "cut off"],
)
def test_malformed_gateway_response_is_reported(response: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def respond() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(response)

        thread = threading.Thread(target=respond)
        thread.start()
        with pytest.raises(MonitoringError, match="metrics cannot be read"):
            scrape(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_response_that_is_not_from_prometheus_is_rejected(gateway: HTTPServer) -> None:
    gateway.text = "[]"  # type: ignore[attr-defined]
    with pytest.raises(MonitoringError, match="expected a Prometheus server's response"):
        query_prometheus(f"http://127.0.0.1:{gateway.server_port}", "m", timedelta(hours=1))
