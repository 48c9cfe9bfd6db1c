"""The prediction log: its rows, its files, and what it does if the disk or the thread is slow."""

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


def logged(**more: Any) -> LoggedCall:
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
    return call._replace(**more)


def rows_of(call: LoggedCall, share: float = 1.0, leave_out: tuple[str, ...] = ()) -> list[Any]:
    sampled = call.sample(share)
    text = encode_lines(sampled, share, leave_out) if sampled is not None else b""
    assert text.endswith(b"\n")
    return list(map(json.loads, text.splitlines()))


def test_a_row_holds_everything_about_a_prediction() -> None:
    first, second = rows_of(logged(arm="canary"))
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
        # The shortest digits that are the same float32.
        "columns": {"a": 0.1, "b": 2.0, "c": -3e-7},
        "probability": 0.25,
        "label": "yes",
        "shadow": None,
        "seconds": 0.0015,
    }
    assert second["columns"] == {"a": None, "b": 1e20, "c": 0.0}
    assert (second["probability"], second["label"], second["caller"]) == (None, "no", None)


def test_rows_of_one_request_have_its_id_and_a_number() -> None:
    found = rows_of(logged(ids=["one"], rows=[2], callers=[None], seconds=[0.1], times=[0.0]))
    assert [(row["id"], row["row"]) for row in found] == [("one", 0), ("one", 1)]
    table = logged(
        ids=["one"], rows=[2], callers=[None], seconds=[0.1], times=[0.0], row_indexes=[7, 9]
    )
    assert [row["row"] for row in rows_of(table)] == [7, 9]


def test_grouped_calls_have_the_same_lines_as_single_calls() -> None:
    later = logged(ids=["c", "d"], times=(1_700_000_002.0, 1_700_000_003.0))
    table = logged(
        ids=["e"], rows=[2], callers=[None], seconds=[0.1], times=[0.0], row_indexes=[7, 9]
    )
    half = logged(outputs={"probability": ANSWER["probability"]})
    shadow = logged(shadow=ShadowAnswer(2, ANSWER))
    large = logged(
        call=Call("dense", {"features": np.repeat(ROWS, 64, axis=0)}),
        outputs={name: np.repeat(array, 64) for name, array in ANSWER.items()},
        **{name: [value] * 128 for name, value in (("ids", "f"), ("callers", None), ("rows", 1))},
        **{name: [0.5] * 128 for name in ("seconds", "times")},
    )
    calls = [logged(), later, logged(arm="canary"), table, table, half, half, shadow, large, later]
    calls += [logged(schema=MIXED), logged(rows=None)]
    groups = list(group_calls(calls))
    assert [len(group) for group in groups] == [2, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    for group in groups[:8]:
        together = encode_lines(merge_calls(group), 1.0, ())
        assert together == b"".join(encode_lines(call, 1.0, ()) for call in group)


def test_values_are_those_that_predict_takes() -> None:
    inputs = {
        "size": np.array([1.5, 2], np.float32),
        "income": np.array([np.nan, 7], np.float32),
        "city": np.array([b"Bern", "Zürich 100 %".encode()], object),
        "district": np.array([b"", b"42"], object),
        "garden": np.array([b"", b"true"], object),
        "rooms": np.array([3, -(2**63)]),
        "balcony": np.array([0, -2], np.int8),
    }
    first, second = rows_of(logged(schema=MIXED, call=Call("serving_default", inputs)))
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


@pytest.mark.parametrize("form", ["dense", "serving_default"])
def test_dates_are_iso_8601(form: str) -> None:
    columns = (schemas.column("day", kind="date"), schemas.column("x"))
    schema = schemas.describing(schemas.numeric("day", "x"), *columns)
    days = np.array([[19783, 1], [19783.5, 2], [np.nan, 3]])
    inputs = {"features": days} if form == "dense" else {"day": days[:, 0], "x": days[:, 1]}
    answer = {name: np.resize(array, 3) for name, array in ANSWER.items()}
    call = logged(schema=schema, call=Call(form, inputs), outputs=answer, rows=[1, 2])
    found = [row["columns"]["day"] for row in rows_of(call)]
    assert found == ["2024-03-01", "2024-03-01T12:00:00Z", None]


def test_columns_can_be_left_out() -> None:
    first, _ = rows_of(logged(), leave_out=("b", "nosuch"))
    assert first["columns"] == {"a": 0.1, "c": -3e-7}
    inputs = {"city": np.array([b"Bern"], object), "x": np.array([1.0])}
    call = Call("serving_default", inputs)
    plain = logged(
        schema=schemas.schema(city=schemas.COLUMN, x=schemas.COLUMN),
        call=call,
        outputs={"y": np.array([1.0])},
        ids=["one"],
        rows=[1],
        callers=[None],
        seconds=[0.0],
        times=[0.0],
    )
    assert rows_of(plain, leave_out=("city",))[0]["columns"] == {"x": 1.0}


def test_other_models_log_their_outputs() -> None:
    schema = schemas.schema(x=schemas.spec("FLOAT", None, 2))
    call = Call("serving_default", {"x": np.array([[1, 2], [3, 4]], np.float32)})
    answer = {"y": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}
    found = rows_of(logged(schema=schema, call=call, outputs=answer))
    assert found[1]["columns"] == {"x": [3, 4]}
    assert found[1]["outputs"] == {"y": [4, 5, 6]}
    assert "probability" not in found[0]
    # A call whose rows cannot be told apart is one row.
    (only,) = rows_of(
        logged(
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


def test_outputs_that_a_request_leaves_out_are_null() -> None:
    first, _ = rows_of(logged(outputs={"label": ANSWER["label"]}))
    assert (first["probability"], first["label"]) == (None, "yes")


def test_the_shadow_s_answer_joins_the_row() -> None:
    first, _ = rows_of(logged(shadow=ShadowAnswer(2, ANSWER)))
    assert first["shadow"] == {"version": 2, "probability": 0.25, "label": "yes"}


def test_a_share_of_the_requests_is_logged_by_their_ids() -> None:
    ids = [f"id {i}" for i in range(2000)]
    kept = {one for one in ids if is_sampled(one, 0.25)}
    assert 400 < len(kept) < 600
    assert kept < {one for one in ids if is_sampled(one, 0.5)}
    call = logged(
        call=Call("dense", {"features": np.zeros((4000, 3), np.float32)}),
        outputs={name: np.resize(array, 4000) for name, array in ANSWER.items()},
        ids=ids,
        rows=[2] * 2000,
        callers=[None] * 2000,
        seconds=[0.1] * 2000,
        times=[0.0] * 2000,
    )
    found = rows_of(call, share=0.25)
    assert {row["id"] for row in found} == kept
    assert len(found) == 2 * len(kept) == call.sampled_rows(0.25)


def test_new_ids_are_uuids_of_version_7() -> None:
    before = time.time_ns() // 1_000_000
    ids = new_ids()
    found = [next(ids) for _ in range(1000)]
    assert len(set(found)) == 1000
    for text in found:
        one = uuid.UUID(text)
        assert (str(one), one.version, one.variant) == (text, 7, uuid.RFC_4122)
        assert is_id(text)
        assert 0 <= (one.int >> 80) - before < 10_000


# Files.


def lines_in(directory: Path, pattern: str = "*.ndjson*") -> list[Any]:
    text = b"".join(path.read_bytes() for path in sorted(directory.glob(pattern)))
    return list(map(json.loads, text.splitlines()))


def test_segments_are_sealed_when_they_are_large_old_or_closed(
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
    assert lines_in(tmp_path / "log") == [1] * 10 + [2] * 50 + [3]


def write_and_wait(directory: Path, written: Any) -> None:
    Segments(directory).append(b'{"x": 1}\n{"to')
    written.set()
    time.sleep(60)


def test_segments_of_dead_processes_are_sealed_and_those_of_living_ones_are_not(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("fork")
    written = context.Event()
    other = context.Process(target=write_and_wait, args=(tmp_path, written))
    other.start()
    assert other.pid is not None
    written.wait(30)
    assert recover(tmp_path) == 0
    os.kill(other.pid, signal.SIGKILL)
    other.join()
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


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    segments = Segments(tmp_path)
    with full_disk(100):
        segments.append(b"1\n" * 40)
        with pytest.raises(OSError, match="too large"):
            segments.append(b"2\n" * 40)
        segments.append(b"3\n" * 10)
    segments.append(b"4\n")
    segments.close()
    assert lines_in(tmp_path) == [1] * 40 + [3] * 10 + [4]


def test_a_directory_without_locks_leaks_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def flock(file: int, operation: int) -> None:
        opened.append(file)
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr("client.observability.segments.fcntl.flock", flock)
    segments = Segments(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="no locks"):
            segments.append(b"1\n")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[-1])
    assert not any(tmp_path.iterdir())


# The log.


class Log:
    """A log under test and its counters."""

    def __init__(self, directory: Path, share: float = 1.0, **more: Any) -> None:
        self.metrics = Metrics()
        self.log = PredictionLog(directory, share, more.get("leave_out", ()), self.metrics)

    def recorded(self) -> int:
        return int(self.metrics.samples().total("client_log_rows_total"))

    def dropped(self) -> dict[str, int]:
        return self.metrics.samples().count_by("client_log_dropped_rows_total", "reason")


def test_every_row_is_recorded_or_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "MAX_ROWS", 500)
    one = Log(tmp_path)
    one.log.start()
    start = time.monotonic()
    for _ in range(20_000):
        one.log.put(logged())
    assert time.monotonic() - start < 5  # it never waits
    one.log.close()
    dropped = one.dropped()
    assert dropped["queue"] > 0
    assert one.recorded() + sum(dropped.values()) == 40_000
    assert len(lines_in(tmp_path, "*.ndjson")) == one.recorded() > 0
    assert one.metrics.samples().total("client_log_bytes_total") == sum(
        path.stat().st_size for path in tmp_path.glob("*.ndjson")
    )


def test_a_full_disk_drops_rows_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prediction_log, "PAUSE_SECONDS", 0.3)
    one = Log(tmp_path)
    one.log.start()
    with full_disk(2000):
        put = 0
        while one.dropped().get("disk", 0) < 20:
            one.log.put(logged())
            put += 2
            time.sleep(0.01)
    assert caplog.text.count("cannot be written") == 1
    before = one.recorded()

    def recovered() -> bool:
        nonlocal put
        one.log.put(logged())
        put += 2
        return one.recorded() > before

    wait_for(recovered, "rows are recorded again", 10)
    one.log.close()
    assert one.recorded() + one.dropped()["disk"] == put
    assert len(lines_in(tmp_path, "*.ndjson")) == one.recorded()


def test_a_directory_that_cannot_be_written_costs_only_the_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    one = Log(tmp_path / "file" / "log")
    one.log.start()
    one.log.put(logged())
    one.log.close()
    assert (one.recorded(), one.dropped()) == (0, {"disk": 2, "error": 0, "queue": 0})
    assert caplog.text.count("cannot be written") == 1


def test_a_fault_in_one_call_does_not_end_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Log(tmp_path)
    one.log.start()
    one.log.put(logged(call=Call("nosuch", {})))
    one.log.put(logged())
    one.log.close()
    assert (one.recorded(), one.dropped()) == (2, {"disk": 0, "error": 2, "queue": 0})
    assert "could not be logged" in caplog.text


def test_a_slow_disk_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "CLOSE_SECONDS", 0.2)
    stuck = threading.Event()
    monkeypatch.setattr(Segments, "append", lambda *_: stuck.wait(30))
    one = Log(tmp_path)
    one.log.start()
    one.log.put(logged())
    start = time.monotonic()
    one.log.close()
    assert time.monotonic() - start < 5
    stuck.set()


def test_unknown_names_to_leave_out_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Log(tmp_path, leave_out=("b", "nosuch"))
    one.log.start()
    for _ in range(3):
        one.log.put(logged())
    one.log.close()
    assert caplog.text.count('has no column "nosuch"') == 1
    assert next(row["columns"] for row in lines_in(tmp_path)).keys() == {"a", "c"}
