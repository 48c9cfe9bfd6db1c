"""The prediction log: rows, files, and behaviour with a full, slow or unwritable disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.codecs import Call
from client.observability import prediction_log
from client.observability.log_rows import (
    LoggedCall,
    ShadowAnswer,
    encode_lines,
    group_calls,
    merge_calls,
)
from client.observability.metrics import Metrics
from client.observability.prediction_ids import is_id, is_sampled, new_ids
from client.observability.prediction_log import PredictionLog
from client.observability.segments import Segments, recover
from tests.client import schemas
from tests.support.processes import wait_for

NUMBERS = schemas.numeric("a", "b", "c")
MIXED = schemas.mixed()
ROWS = np.array([[0.1, 2, -3e-7], [np.nan, 1e20, 0]], np.float32)
ANSWER = {
    "probability": np.array([0.25, np.nan], np.float32),
    "label": np.array([b"yes", b"no"], object),
    "logit": np.zeros(2, np.float32),
}


def logged_call(**changes: Any) -> LoggedCall:
    call = LoggedCall(
        schema=NUMBERS,
        call=Call("dense", {"features": ROWS}),
        outputs=ANSWER,
        ids=("first", "second"),
        rows=(1, 1),
        callers=("shop", None),
        seconds=(0.0015, 0.25),
        times=(1_700_000_000.1239, 1_700_000_001.5),
    )
    return call._replace(**changes)


def logged_rows(call: LoggedCall, share: float = 1.0, leave_out: tuple[str, ...] = ()) -> list[Any]:
    sampled = call.sample(share)
    text = encode_lines(sampled, share, leave_out) if sampled is not None else b""
    assert text.endswith(b"\n")
    return list(map(json.loads, text.splitlines()))


def test_row_contains_every_field_of_a_prediction() -> None:
    first, second = logged_rows(logged_call(arm="canary"))
    assert first == {
        "format": 1,
        "id": "first",
        "row": 0,
        "time": "2023-11-14T22:13:20.123Z",
        "model": "m",
        "version": 1,
        "arm": "canary",
        "share": 1.0,
        "caller": "shop",
        # The shortest digits that round-trip as float32.
        "columns": {"a": 0.1, "b": 2.0, "c": -3e-7},
        "probability": 0.25,
        "label": "yes",
        "shadow": None,
        "seconds": 0.0015,
    }
    assert second["columns"] == {"a": None, "b": 1e20, "c": 0.0}
    assert (second["probability"], second["label"], second["caller"]) == (None, "no", None)


def test_rows_of_a_request_share_its_id_and_are_numbered() -> None:
    rows = logged_rows(
        logged_call(ids=["one"], rows=[2], callers=[None], seconds=[0.1], times=[0.0])
    )
    assert [(row["id"], row["row"]) for row in rows] == [("one", 0), ("one", 1)]
    table = logged_call(
        ids=["one"], rows=[2], callers=[None], seconds=[0.1], times=[0.0], row_indexes=[7, 9]
    )
    assert [row["row"] for row in logged_rows(table)] == [7, 9]


def test_grouped_calls_are_encoded_like_single_calls() -> None:
    later = logged_call(ids=["c", "d"], times=(1_700_000_002.0, 1_700_000_003.0))
    table = logged_call(
        ids=["e"], rows=[2], callers=[None], seconds=[0.1], times=[0.0], row_indexes=[7, 9]
    )
    half = logged_call(outputs={"probability": ANSWER["probability"]})
    shadow = logged_call(shadow=ShadowAnswer(2, ANSWER))
    large = logged_call(
        call=Call("dense", {"features": np.repeat(ROWS, 64, axis=0)}),
        outputs={name: np.repeat(array, 64) for name, array in ANSWER.items()},
        **{name: [value] * 128 for name, value in (("ids", "f"), ("callers", None), ("rows", 1))},
        **{name: [0.5] * 128 for name in ("seconds", "times")},
    )
    first, canary = logged_call(), logged_call(arm="canary")
    calls = [first, later, canary, table, table, half, half, shadow, large, later]
    calls += [logged_call(schema=MIXED), logged_call(rows=None)]
    groups = list(group_calls(calls))
    assert [len(group) for group in groups] == [2, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    for group in groups[:8]:
        merged = encode_lines(merge_calls(group), 1.0, ())
        assert merged == b"".join(encode_lines(call, 1.0, ()) for call in group)


def test_values_are_logged_as_predict_accepts_them() -> None:
    inputs = {
        "size": np.array([1.5, 2], np.float32),
        "income": np.array([np.nan, 7], np.float32),
        "city": np.array([b"Bern", "Zürich 100 %".encode()], object),
        "district": np.array([b"", b"42"], object),
        "garden": np.array([b"", b"true"], object),
        "rooms": np.array([3, -(2**63)]),
        "balcony": np.array([0, -2], np.int8),
    }
    first, second = logged_rows(logged_call(schema=MIXED, call=Call("serving_default", inputs)))
    assert first["columns"] == {
        "size": 1.5,
        "income": None,
        "city": "Bern",
        "district": None,
        "garden": None,
        "rooms": 3,
        "balcony": False,
    }
    assert second["columns"] == {
        "size": 2.0,
        "income": 7.0,
        "city": "Zürich 100 %",
        "district": "42",
        "garden": "true",
        "rooms": None,
        "balcony": None,
    }


@pytest.mark.parametrize("signature_name", ["dense", "serving_default"])
def test_dates_are_logged_as_iso_8601(signature_name: str) -> None:
    columns = (schemas.column("day", kind="date"), schemas.column("x"))
    schema = schemas.with_description(schemas.numeric("day", "x"), *columns)
    days = np.array([[19783, 1], [19783.5, 2], [np.nan, 3]])
    inputs = (
        {"features": days} if signature_name == "dense" else {"day": days[:, 0], "x": days[:, 1]}
    )
    answer = {name: np.resize(array, 3) for name, array in ANSWER.items()}
    call = logged_call(
        schema=schema, call=Call(signature_name, inputs), outputs=answer, rows=[1, 2]
    )
    dates = [row["columns"]["day"] for row in logged_rows(call)]
    assert dates == ["2024-03-01", "2024-03-01T12:00:00Z", None]


def test_columns_can_be_left_out() -> None:
    first, _ = logged_rows(logged_call(), leave_out=("b", "nosuch"))
    assert first["columns"] == {"a": 0.1, "c": -3e-7}
    inputs = {"city": np.array([b"Bern"], object), "x": np.array([1.0])}
    call = Call("serving_default", inputs)
    plain = logged_call(
        schema=schemas.schema(city=schemas.COLUMN, x=schemas.COLUMN),
        call=call,
        outputs={"y": np.array([1.0])},
        ids=["one"],
        rows=[1],
        callers=[None],
        seconds=[0.0],
        times=[0.0],
    )
    assert logged_rows(plain, leave_out=("city",))[0]["columns"] == {"x": 1.0}


def test_models_without_a_description_log_raw_inputs_and_outputs() -> None:
    schema = schemas.schema(x=schemas.spec("FLOAT", None, 2))
    call = Call("serving_default", {"x": np.array([[1, 2], [3, 4]], np.float32)})
    answer = {"y": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}
    rows = logged_rows(logged_call(schema=schema, call=call, outputs=answer))
    assert rows[1]["columns"] == {"x": [3, 4]}
    assert rows[1]["outputs"] == {"y": [4, 5, 6]}
    assert "probability" not in rows[0]
    # A call without separate rows is logged as one row.
    (only,) = logged_rows(
        logged_call(
            schema=schema,
            call=call,
            outputs={"y": np.float32(7), "z": np.array([1.5, 2])},
            shadow=ShadowAnswer(2, {"y": np.array(0.25), "z": np.array([3.5, 4])}),
            ids=["one"],
            rows=None,
            callers=[None],
            seconds=[0.0],
            times=[0.0],
        )
    )
    assert only["columns"] == {"x": [[1, 2], [3, 4]]}
    assert only["outputs"] == {"y": 7.0, "z": [1.5, 2]}
    assert only["shadow"] == {"version": 2, "outputs": {"y": 0.25, "z": [3.5, 4]}}


def test_outputs_that_were_not_requested_are_null() -> None:
    first, _ = logged_rows(logged_call(outputs={"label": ANSWER["label"]}))
    assert (first["probability"], first["label"]) == (None, "yes")


def test_row_includes_the_answer_of_the_shadow() -> None:
    first, _ = logged_rows(logged_call(shadow=ShadowAnswer(2, ANSWER)))
    assert first["shadow"] == {"version": 2, "probability": 0.25, "label": "yes"}


def test_requests_are_sampled_by_id() -> None:
    ids = [f"id {i}" for i in range(2000)]
    sampled = {id_ for id_ in ids if is_sampled(id_, 0.25)}
    assert 400 < len(sampled) < 600
    assert sampled < {id_ for id_ in ids if is_sampled(id_, 0.5)}
    call = logged_call(
        call=Call("dense", {"features": np.zeros((4000, 3), np.float32)}),
        outputs={name: np.resize(array, 4000) for name, array in ANSWER.items()},
        ids=ids,
        rows=[2] * 2000,
        callers=[None] * 2000,
        seconds=[0.1] * 2000,
        times=[0.0] * 2000,
    )
    rows = logged_rows(call, share=0.25)
    assert {row["id"] for row in rows} == sampled
    assert len(rows) == 2 * len(sampled) == call.sampled_rows(0.25)


def test_new_ids_are_version_7_uuids() -> None:
    before = time.time_ns() // 1_000_000
    ids = new_ids()
    texts = [next(ids) for _ in range(1000)]
    assert len(set(texts)) == 1000
    for text in texts:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
        assert is_id(text)
        assert 0 <= (parsed.int >> 80) - before < 10_000


# Files.


def read_lines(directory: Path, pattern: str = "*.ndjson*") -> list[Any]:
    text = b"".join(path.read_bytes() for path in sorted(directory.glob(pattern)))
    return list(map(json.loads, text.splitlines()))


def test_segments_are_sealed_when_large_old_or_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.observability.segments.MAX_BYTES", 100)
    segments = Segments(tmp_path / "log")
    segments.append(b"1\n" * 10)
    assert len(list((tmp_path / "log").glob("*.ndjson.open"))) == 1
    segments.append(b"2\n" * 50)
    (sealed,) = (tmp_path / "log").iterdir()
    assert sealed.name.endswith(f"-{os.getpid()}-1.ndjson")
    segments.append(b"3\n")
    segments.tick()
    assert len(list((tmp_path / "log").glob("*.open"))) == 1
    monkeypatch.setattr("client.observability.segments.MAX_SECONDS", 0)
    segments.tick()
    segments.tick()
    segments.close()
    assert [path.suffix for path in sorted((tmp_path / "log").iterdir())] == [".ndjson"] * 2
    assert read_lines(tmp_path / "log") == [1] * 10 + [2] * 50 + [3]


def write_and_wait(directory: Path, is_written: Any) -> None:
    Segments(directory).append(b'{"x": 1}\n{"to')
    is_written.set()
    time.sleep(60)


def test_only_segments_of_dead_processes_are_recovered(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    is_written = context.Event()
    process = context.Process(target=write_and_wait, args=(tmp_path, is_written))
    process.start()
    assert process.pid is not None
    is_written.wait(30)
    assert recover(tmp_path) == 0
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "host-1-1.ndjson.open").touch()  # nothing was written to it
    assert recover(tmp_path) == 2
    (sealed,) = tmp_path.iterdir()
    assert sealed.suffix == ".ndjson"
    # Readers skip a torn last line.
    assert sealed.read_bytes() == b'{"x": 1}\n{"to'
    assert recover(tmp_path) == 0


@contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """Limit the size of files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_failed_append_leaves_no_partial_line(tmp_path: Path) -> None:
    segments = Segments(tmp_path)
    with full_disk(100):
        segments.append(b"1\n" * 40)
        with pytest.raises(OSError, match="too large"):
            segments.append(b"2\n" * 40)
        segments.append(b"3\n" * 10)
    segments.append(b"4\n")
    segments.close()
    assert read_lines(tmp_path) == [1] * 40 + [3] * 10 + [4]


def test_directory_without_locks_leaks_no_file_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        descriptors.append(descriptor)
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr("client.observability.segments.fcntl.flock", flock)
    segments = Segments(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="no locks"):
            segments.append(b"1\n")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptors[-1])
    assert not any(tmp_path.iterdir())


# The log.


class LogHarness:
    """A prediction log and its counters."""

    def __init__(self, directory: Path, leave_out: tuple[str, ...] = ()) -> None:
        self.metrics = Metrics()
        self.log = PredictionLog(directory, 1.0, leave_out, self.metrics)

    def recorded(self) -> int:
        return int(self.metrics.samples().total("client_log_rows_total"))

    def dropped(self) -> dict[str, int]:
        return self.metrics.samples().count_by("client_log_dropped_rows_total", "reason")


def test_every_row_is_recorded_or_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "MAX_ROWS", 500)
    harness = LogHarness(tmp_path)
    harness.log.start()
    start = time.monotonic()
    for _ in range(20_000):
        harness.log.put(logged_call())
    assert time.monotonic() - start < 5  # put() does not block
    harness.log.close()
    dropped = harness.dropped()
    assert dropped["queue"] > 0
    assert harness.recorded() + sum(dropped.values()) == 40_000
    assert len(read_lines(tmp_path, "*.ndjson")) == harness.recorded() > 0
    assert harness.metrics.samples().total("client_log_bytes_total") == sum(
        path.stat().st_size for path in tmp_path.glob("*.ndjson")
    )


def test_rows_are_dropped_only_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prediction_log, "PAUSE_SECONDS", 0.3)
    harness = LogHarness(tmp_path)
    harness.log.start()
    with full_disk(2000):
        put_rows = 0
        while harness.dropped().get("disk", 0) < 20:
            harness.log.put(logged_call())
            put_rows += 2
            time.sleep(0.01)
    assert caplog.text.count("cannot be written") == 1
    before = harness.recorded()

    def is_recorded() -> bool:
        nonlocal put_rows
        harness.log.put(logged_call())
        put_rows += 2
        return harness.recorded() > before

    wait_for(is_recorded, "rows are recorded again", 10)
    harness.log.close()
    assert harness.recorded() + harness.dropped()["disk"] == put_rows
    assert len(read_lines(tmp_path, "*.ndjson")) == harness.recorded()


def test_unwritable_directory_drops_rows_and_logs_one_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    harness = LogHarness(tmp_path / "file" / "log")
    harness.log.start()
    harness.log.put(logged_call())
    harness.log.close()
    assert (harness.recorded(), harness.dropped()) == (0, {"disk": 2, "error": 0, "queue": 0})
    assert caplog.text.count("cannot be written") == 1


def test_failing_call_does_not_stop_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = LogHarness(tmp_path)
    harness.log.start()
    harness.log.put(logged_call(call=Call("nosuch", {})))
    harness.log.put(logged_call())
    harness.log.close()
    assert (harness.recorded(), harness.dropped()) == (2, {"disk": 0, "error": 2, "queue": 0})
    assert "could not be logged" in caplog.text


def test_slow_disk_does_not_delay_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "CLOSE_SECONDS", 0.2)
    stuck = threading.Event()
    monkeypatch.setattr(Segments, "append", lambda *_: stuck.wait(30))
    harness = LogHarness(tmp_path)
    harness.log.start()
    harness.log.put(logged_call())
    start = time.monotonic()
    harness.log.close()
    assert time.monotonic() - start < 5
    stuck.set()


def test_unknown_columns_to_leave_out_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = LogHarness(tmp_path, leave_out=("b", "nosuch"))
    harness.log.start()
    for _ in range(3):
        harness.log.put(logged_call())
    harness.log.close()
    assert caplog.text.count('has no column "nosuch"') == 1
    assert next(row["columns"] for row in read_lines(tmp_path)).keys() == {"a", "c"}
