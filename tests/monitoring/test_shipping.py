"""Shipping the log as CloudEvents to failing receivers, and after kills."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from monitoring import compaction, shipping
from monitoring.__main__ import main
from monitoring.compaction import compact, forget
from monitoring.events import MAX_ROWS
from monitoring.shipping_state import HOLD, STATE, unsent_segments
from monitoring.store import Store
from tests.support.prediction_log import feedback, prediction, write_segment
from tests.support.processes import ROOT, free_port, wait_for


class Receiver:
    """Records accepted events; responds with `statuses` first, one per event."""

    def __init__(self, port: int = 0) -> None:
        self.events: list[tuple[dict[str, str], Any]] = []
        self.statuses: list[int] = []
        self.refused_ids: set[str] = set()
        self.delay = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                time.sleep(receiver.delay)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.statuses.pop(0) if receiver.statuses else 202
                if headers["ce-id"] in receiver.refused_ids:
                    status = 400
                if status < 300:
                    receiver.events.append((headers, json.loads(body)))
                text = b"" if status < 300 else b"not\nnow"
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events?from=log"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def ids(self) -> Counter[str]:
        """Return how often each request was received, by id."""
        return Counter(h["ce-id"] for h, _ in self.events if h["ce-type"].endswith(".request"))

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "FIRST_DELAY", 0.01)


def ship(log: Path, url: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["ship", f"--log={log}", f"--to={url}", "--once", *options])


def id_range(start: int, stop: int) -> set[str]:
    return {f"id-{number}" for number in range(start, stop)}


def test_events_follow_the_kserve_format(receiver: Receiver, tmp_path: Path) -> None:
    rows = [
        prediction(0, id="two", row=0, columns={"x": 1.5}, time="2026-03-01T12:00:00.000Z"),
        prediction(1, id="two", row=1, columns={"x": None}, time="2026-03-01T12:00:00.000Z"),
        prediction(2, model="prix réel", version=7, arm="canary", caller='"ä" 100%', share=0.25),
        prediction(3, probability=None, label=None, outputs={"score": [1, 2]}),
    ]
    write_segment(tmp_path / "host-1-1.ndjson", rows)
    result = ship(tmp_path, receiver.url)
    assert result.exit_code == 0, result.output
    events = {(h["ce-id"], h["ce-type"].rpartition(".")[2]): (h, b) for h, b in receiver.events}
    assert len(receiver.events) == len(events) == 6
    headers, body = events["two", "request"]
    assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "two",
        "ce-type": "org.kubeflow.serving.inference.request",
        "ce-source": "/v1/models/m/versions/1",
        "ce-time": "2026-03-01T12:00:00.000Z",
        "ce-inferenceservicename": "m",
        "ce-namespace": "default",
        "ce-component": "predictor",
        "ce-endpoint": "default",
        "ce-modelversion": "1",
        "ce-share": "1.0",
    }
    assert headers["content-type"] == "application/json"
    assert body == {"instances": [{"x": 1.5}, {"x": None}]}
    headers, body = events["two", "response"]
    assert headers["ce-type"] == "org.kubeflow.serving.inference.response"
    assert body == {"predictions": [{"probability": 0.25, "label": "no"}] * 2}
    headers, _ = events["id-2", "request"]
    # The HTTP binding percent-encodes headers, including the % of a URL.
    assert headers["ce-source"] == "/v1/models/prix%2520r%25C3%25A9el/versions/7"
    assert headers["ce-inferenceservicename"] == "prix%20r%C3%A9el"
    assert headers["ce-caller"] == "%22%C3%A4%22%20100%25"
    assert (headers["ce-endpoint"], headers["ce-arm"]) == ("canary", "canary")
    assert events["id-3", "response"][1] == {"predictions": [{"score": [1, 2]}]}


def test_long_requests_are_split_into_several_events(receiver: Receiver, tmp_path: Path) -> None:
    rows = [prediction(0, id="long", row=n, columns={"x": n}) for n in range(2 * MAX_ROWS + 1)]
    write_segment(tmp_path / "host-1-1.ndjson", rows)
    assert ship(tmp_path, receiver.url).exit_code == 0
    assert set(receiver.ids()) == {"long", f"long/{MAX_ROWS}", f"long/{2 * MAX_ROWS}"}
    requests = {h["ce-id"]: b for h, b in receiver.events if h["ce-type"].endswith(".request")}
    assert requests[f"long/{MAX_ROWS}"]["instances"][0] == {"x": MAX_ROWS}


def test_segments_are_sent_once_and_damaged_lines_are_counted(
    receiver: Receiver, tmp_path: Path
) -> None:
    path = tmp_path / "host-1-1.ndjson"
    write_segment(path, [prediction(0), [1], {"id": "x"}, prediction(1)], torn='{"id": "id-2", "ro')
    write_segment(tmp_path / "host-1-2.ndjson.open", [prediction(9)])  # a gateway is writing to it
    result = ship(tmp_path, receiver.url, "--json")
    assert json.loads(result.stdout) == {
        "segments": 1, "rows": 2, "events": 4, "refused": 0, "skipped": 3
    }  # fmt: skip
    assert json.loads(ship(tmp_path, receiver.url, "--json").stdout)["rows"] == 0
    write_segment(tmp_path / "host-1-2.ndjson", [prediction(2)])
    assert json.loads(ship(tmp_path, receiver.url, "--json").stdout)["rows"] == 1
    assert receiver.ids() == Counter(id_range(0, 3))


def test_failed_events_are_retried_until_accepted(receiver: Receiver, tmp_path: Path) -> None:
    write_segment(tmp_path / "host-1-1.ndjson", [prediction(n) for n in range(20)])
    receiver.statuses = [500, 503, 429] * 5
    result = ship(tmp_path, receiver.url)
    assert result.exit_code == 0, result.output
    assert receiver.ids() == Counter(id_range(0, 20))
    assert "retrying: " in result.output
    assert ": not now" in result.output


def test_ship_waits_for_a_receiver_unless_run_once(tmp_path: Path) -> None:
    write_segment(tmp_path / "host-1-1.ndjson", [prediction(n) for n in range(20)])
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    result = ship(tmp_path, url)
    assert result.exit_code == 1
    assert "no answer: " in result.output
    assert "run the command again when the receiver answers" in result.output
    with BackgroundShip(tmp_path, url) as process:
        wait_for(lambda: "retrying" in (tmp_path / "output").read_text(), "the first attempt")
        receiver = Receiver(port)
        try:
            wait_for(lambda: len(receiver.ids()) == 20, "all are sent")
        finally:
            receiver.stop()
    assert process.returncode == 0
    assert "20 rows in 40 events" in (tmp_path / "output").read_text()


def test_refused_events_stop_the_job_or_are_skipped(receiver: Receiver, tmp_path: Path) -> None:
    write_segment(tmp_path / "host-1-1.ndjson", [prediction(n) for n in range(20)])
    receiver.refused_ids = {"id-7"}
    result = ship(tmp_path, receiver.url)
    assert result.exit_code == 1
    assert f"refuses prediction 'id-7': {receiver.url}: 400: not now; --skip-r" in result.output
    result = ship(tmp_path, receiver.url, "--skip-refused", "--json")
    counts = json.loads(result.stdout)
    assert (counts["rows"], counts["refused"], counts["segments"]) == (19, 2, 1)
    assert set(receiver.ids()) == id_range(0, 20) - {"id-7"}


class BackgroundShip:
    """A `ship` process, terminated on exit unless it was killed."""

    def __init__(self, log: Path, url: str) -> None:
        program = (
            "import sys; from monitoring import shipping; from monitoring.__main__ import main;"
            "shipping.FIRST_DELAY = 0.05; shipping.BATCH_ROWS = 40; shipping.SAVE_SECONDS = 0.1;"
            "main(sys.argv[1:])"
        )
        command = [sys.executable, "-c", program, "ship", f"--log={log}", f"--to={url}"]
        with (log / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def test_sigkill_during_shipping_loses_no_events(receiver: Receiver, tmp_path: Path) -> None:
    for segment in range(2):
        rows = [prediction(400 * segment + n) for n in range(400)]
        write_segment(tmp_path / f"host-1-{segment}.ndjson", rows)
    receiver.delay = 0.01
    for count in (100, 450):
        with BackgroundShip(tmp_path, receiver.url) as process:
            wait_for(lambda n=count: len(receiver.ids()) >= n, "some are sent")  # type: ignore[misc]
            process.kill()
    receiver.delay = 0
    assert ship(tmp_path, receiver.url).exit_code == 0
    counts = receiver.ids()
    assert set(counts) == id_range(0, 800)
    # Each kill repeats only the events sent since the last saved state.
    assert sum(counts.values()) < 1200
    responses = [h["ce-id"] for h, _ in receiver.events if h["ce-type"].endswith(".response")]
    assert set(responses) == id_range(0, 800)


def test_compaction_skips_unsent_segments(receiver: Receiver, tmp_path: Path) -> None:
    store, now = Store(tmp_path), datetime.now(timezone.utc) + timedelta(minutes=1)
    write_segment(tmp_path / "host-1-1.ndjson", [prediction(n) for n in range(3)])
    assert ship(tmp_path, receiver.url).exit_code == 0
    write_segment(tmp_path / "host-1-2.ndjson", [prediction(n, caller="ann") for n in range(3, 6)])
    result = CliRunner().invoke(main, ["compact", f"--log={tmp_path}"])
    assert "1 segments wait for `python -m monitoring ship`; to stop shipping" in result.output
    assert [path.name for path in tmp_path.glob("*.ndjson")] == ["host-1-2.ndjson"]
    assert len(store.predictions("m")) == 6
    # Rows that `forget` removes before they are sent are never sent.
    assert forget(store, ["id-4"], [], lambda n: None).predictions == 1
    assert ship(tmp_path, receiver.url).exit_code == 0
    assert receiver.ids() == Counter(id_range(0, 6) - {"id-4"})
    assert compact(store, now, lambda done, total: None).segments == 1

    # A segment that reuses the name of an earlier one is unsent.
    write_segment(tmp_path / "host-1-2.ndjson", [prediction(7)])
    assert compact(store, now, lambda done, total: None).segments == 0
    assert compact(store, now + HOLD, lambda done, total: None).segments == 1
    write_segment(tmp_path / "host-1-3.ndjson", [prediction(8)])
    later = now + timedelta(days=2)
    assert compact(store, later, lambda done, total: None, keep_days=2).segments == 1
    write_segment(tmp_path / "host-1-4.ndjson", [prediction(9)])
    (tmp_path / STATE).unlink()
    assert compact(store, now, lambda done, total: None).segments == 1


def test_segment_completed_during_compaction_is_left_for_shipping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete_segment(*arguments: Any) -> set[Path]:
        unsent = unsent_segments(*arguments)
        write_segment(tmp_path / "host-1-1.ndjson", [prediction(1)])
        return unsent

    (tmp_path / STATE).write_text('{"segments": {}}')
    monkeypatch.setattr(compaction, "unsent_segments", complete_segment)
    compact(Store(tmp_path), datetime.now(timezone.utc), lambda done, total: None)
    assert (tmp_path / "host-1-1.ndjson").exists()


def test_forget_removes_labels_of_a_caller_s_unsent_predictions(
    receiver: Receiver, tmp_path: Path
) -> None:
    write_segment(tmp_path / "host-1-1.ndjson", [prediction(0)])
    assert ship(tmp_path, receiver.url).exit_code == 0
    write_segment(tmp_path / "host-1-2.ndjson", [prediction(1, caller="ann")])
    write_segment(
        tmp_path / "feedback" / "host-1-1.ndjson", [feedback(0, "no"), feedback(1, "yes")]
    )
    result = forget(Store(tmp_path), [], ["ann"], lambda n: None)
    assert (result.predictions, result.feedback) == (1, 1)
    assert Store(tmp_path).feedback()["id"].to_list() == ["id-0"]


def test_errors_are_reported(receiver: Receiver, tmp_path: Path) -> None:
    for url in (
        "broker:8080",
        "ftp://broker",
        "http://",
        "http://[::1",
        "http://a:x",
        "http://a..b/",
        "http://a/é",
        "http://a/b c",
    ):
        result = ship(tmp_path, url)
        assert (result.exit_code, "expected a URL such as http" in result.output) == (2, True), url
    result = ship(tmp_path, "http://user:secret@broker:8080")
    assert (result.exit_code, "secret" in result.output) == (2, False)
    result = ship(tmp_path / "no", receiver.url)
    assert "is not a directory; --log must name" in result.output
    (tmp_path / STATE).write_text("[]")
    result = ship(tmp_path, receiver.url)
    assert (result.exit_code, "remove it to send all segments again" in result.output) == (1, True)
    (tmp_path / STATE).unlink()
    with BackgroundShip(tmp_path, receiver.url):
        wait_for((tmp_path / STATE).exists, "the other process has started")
        result = ship(tmp_path, receiver.url)
    assert "is being shipped by another process" in result.output
    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_segment(tmp_path / "host-1-1.ndjson", [prediction(0)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shipping, "TIMEOUT_SECONDS", 0.05)
            result = ship(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "no answer: timed out" in result.output
