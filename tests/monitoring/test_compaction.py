"""Compaction, retention and `forget`, on segments in the gateways' format."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner

from monitoring import compaction, segments
from monitoring.__main__ import main
from monitoring.compaction import compact, forget, retain
from monitoring.errors import MonitoringError
from monitoring.segments import PREDICTIONS_SCHEMA
from monitoring.store import Store
from tests.support.prediction_log import NOON, feedback, prediction, write_segment
from tests.support.processes import ROOT

SHADOW = {"version": 2, "probability": 0.7, "label": "yes"}
DAY = 86_400


def ignore(*arguments: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two segments of 30 and 20 rows over three days, and a segment of labels."""
    first = [prediction(n, caller="ann") for n in range(10)]
    first += [prediction(n, arm="canary", version=2) for n in range(10, 20)]
    first += [prediction(DAY + n, shadow=SHADOW) for n in range(10)]
    write_segment(tmp_path / "host-1-1.ndjson", first, torn='{"format":1,"id":"to')
    write_segment(
        tmp_path / "host-1-2.ndjson", [prediction(2 * DAY + n, model="other") for n in range(20)]
    )
    labels = [feedback(n, "yes", caller="bob") for n in range(5)]
    write_segment(tmp_path / "feedback" / "host-1-1.ndjson", labels)
    return Store(tmp_path)


def ids(store: Store) -> list[str]:
    return sorted([*store.predictions("m")["id"], *store.predictions("other")["id"]])


def test_compaction_keeps_every_row(store: Store) -> None:
    before = store.predictions("m").sort("time")
    assert len(before) == 30
    result = compact(store, NOON, ignore)
    assert (result.segments, result.predictions, result.feedback, result.skipped) == (3, 50, 5, 1)
    assert not list(store.directory.rglob("*.ndjson"))
    assert store.predictions("m").sort("time").equals(before)
    assert store.predictions("m", NOON + timedelta(days=1)).height == 10
    assert len(store.feedback()) == 5
    assert compact(store, NOON, ignore).segments == 0


def test_duckdb_and_polars_read_the_parquet_files(store: Store) -> None:
    compact(store, NOON, ignore)
    pattern = f"{store.directory}/model=*/date=*/*.parquet"
    query = (
        "SELECT model, date, version, count(*), avg(probability), "
        f"max(CAST(columns->>'$.x' AS DOUBLE)) FROM read_parquet('{pattern}') "
        "GROUP BY ALL ORDER BY ALL"
    )
    rows = duckdb.sql(query).fetchall()
    assert [(r[0], str(r[1]), *r[2:4]) for r in rows] == [
        ("m", "2026-03-01", 1, 10),
        ("m", "2026-03-01", 2, 10),
        ("m", "2026-03-02", 1, 10),
        ("other", "2026-03-03", 1, 20),
    ]
    assert rows[1][5] == pytest.approx(19 / 7)
    frame = pl.scan_parquet(pattern, hive_partitioning=True).filter(model="m").collect()
    assert len(frame) == 30
    dtypes = {name: dtype for name, dtype in PREDICTIONS_SCHEMA.items() if name != "model"}
    assert {name: frame.schema[name] for name in dtypes} == dtypes
    assert frame["shadow_version"].drop_nulls().to_list() == [2] * 10
    x = frame["columns"].str.json_path_match("$.x").cast(pl.Float64)
    assert x.max() == pytest.approx((DAY + 9) / 7)
    assert json.loads(frame["columns"][0])["city"] is None


@pytest.mark.parametrize("steps", range(8))
def test_interrupted_compaction_neither_loses_nor_duplicates_rows(
    store: Store, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt a compaction after `steps` of its renames and removals."""
    before, remaining = ids(store), [steps]
    rename, unlink = Path.replace, Path.unlink

    def count_step() -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise KeyboardInterrupt

    def replace(self: Path, target: Path) -> Path:
        count_step()
        return rename(self, target)

    def remove(self: Path, missing_ok: bool = False) -> None:
        count_step()
        unlink(self, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        patched.setattr(Path, "unlink", remove)
        with pytest.raises(KeyboardInterrupt):
            compact(store, NOON, ignore)
    assert ids(store) == before
    write_segment(store.directory / "host-1-3.ndjson", [prediction(99)])
    compact(store, NOON, ignore)
    assert ids(store) == sorted([*before, "id-99"])
    assert len(store.feedback()) == 5
    assert not list(store.directory.rglob("*.ndjson"))
    assert compact(store, NOON, ignore).segments == 0


def test_new_segment_with_the_name_of_a_removed_one_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, unlink = ids(store), Path.unlink

    def unlink_and_interrupt(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            compact(store, NOON, ignore)
    # A gateway whose container restarts has the same host name and process id.
    write_segment(store.directory / "host-1-1.ndjson", [prediction(99)])
    assert ids(store) == sorted([*before, "id-99"])
    compact(store, NOON, ignore)
    assert ids(store) == sorted([*before, "id-99"])
    assert not list(store.directory.rglob("*.ndjson"))


def test_plans_of_earlier_releases_are_completed(store: Store) -> None:
    plan = {"name": "x", "predictions": ["host-1-1.ndjson"], "feedback": [], "written": True}
    (store.directory / "compaction.json").write_text(json.dumps(plan))
    assert store.predictions("m").is_empty()
    assert compact(store, NOON, ignore).predictions == 20
    assert not list(store.directory.rglob("*.ndjson"))


def test_sigkill_during_compaction_loses_no_rows(tmp_path: Path) -> None:
    for segment in range(12):
        rows = [prediction(segment * 100 + n) for n in range(100)]
        write_segment(tmp_path / f"host-1-{segment:02}.ndjson", rows)
    program = (
        "import sys; from monitoring import compaction, store; from pathlib import Path;"
        "from datetime import datetime, timezone; compaction.BATCH_BYTES = 1; "
        "now = datetime.now(timezone.utc); log = store.Store(Path(sys.argv[1]));"
        "compaction.compact(log, now, lambda done, total: None)"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
        before = len(list(tmp_path.rglob("*.parquet")))
        while process.poll() is None and len(list(tmp_path.rglob("*.parquet"))) <= before + 2:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert count_ids(tmp_path) == 1200
    result = CliRunner().invoke(main, ["compact", f"--log={tmp_path}", "--json"])
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.glob("*.ndjson"))
    assert count_ids(tmp_path) == 1200


def count_ids(folder: Path) -> int:
    ids = Store(folder).predictions("m")["id"]
    assert ids.n_unique() == len(ids)
    return len(ids)


def test_open_segments_are_read_but_not_compacted_until_abandoned(store: Store) -> None:
    path = write_segment(store.directory / "host-2-1.ndjson.open", [prediction(50)], torn='{"id"')
    assert len(store.predictions("m")) == 31
    compact(store, NOON, ignore)
    assert path.exists()
    old = time.time() - segments.ABANDONED_SECONDS - 1
    os.utime(path, (old, old))
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as by a suspended gateway
        compact(store, NOON, ignore)
        assert path.exists()
    compact(store, NOON, ignore)  # the lock is free, as after its gateway was killed
    assert not path.exists()
    assert len(store.predictions("m")) == 31


def test_retention_removes_the_oldest_days(store: Store) -> None:
    compact(store, NOON, ignore)
    partitions = [path.parent for path in store.parquet_files()]
    assert len(partitions) == 4
    for name in ("20260301T120000000000", "20260302T120000000000"):
        (store.directory / "datasets" / name / "rows").mkdir(parents=True)
    removed = retain(store, NOON + timedelta(days=3), keep_days=2, keep_bytes=None)
    names = ["date=2026-03-01", "date=2026-03-01", "20260301T120000000000"]
    assert [path.name for path in removed] == names
    assert len(store.predictions("m")) == 10
    assert len(store.feedback()) == 0
    size = sum(path.stat().st_size for path in store.parquet_files())
    assert retain(store, NOON, keep_days=None, keep_bytes=size) == []
    assert [p.parent.name for p in retain(store, NOON, keep_days=None, keep_bytes=size - 1)] == [
        "model=m"
    ]
    assert len(store.predictions("other")) == 20


@pytest.mark.parametrize("compacted", [True, False])
def test_forget_removes_every_trace(store: Store, compacted: bool) -> None:
    write_segment(
        store.directory / "feedback" / "host-1-2.ndjson", [feedback(15, "no", caller="ann")]
    )
    if compacted:
        compact(store, NOON, ignore)
    labelled = store.directory / "datasets" / "x" / "rows" / "labelled.parquet"
    labelled.parent.mkdir(parents=True)
    pl.DataFrame({"prediction id": ["id-3", "id-15", "id-16"]}).write_parquet(labelled)
    result = CliRunner().invoke(
        main, ["forget", f"--log={store.directory}", "--caller=ann", "--id=id-12", "--json"]
    )
    assert result.exit_code == 0, result.output
    counts = json.loads(result.output)
    assert counts["predictions"] == 11
    assert counts["feedback"] == 6  # sent by ann, or by bob for ann's predictions
    assert counts["training_rows"] == 2  # ann sent the label of id-15
    assert len(store.predictions("m")) == 19
    for path in store.directory.rglob("*.parquet"):
        columns = [n for n in pl.read_parquet_schema(path) if n in ("id", "prediction id")]
        assert not {"id-3", "id-12"} & set(pl.read_parquet(path)[columns[0]])
        assert b"ann" not in path.read_bytes()
    invalid = CliRunner().invoke(main, ["forget", f"--log={store.directory}"])
    assert invalid.exit_code == 2
    assert "expected --id or --caller" in invalid.output


def test_forget_removes_damaged_datasets_and_temporary_files(store: Store) -> None:
    damaged = store.directory / "datasets" / "x" / "rows" / "labelled.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"PAR1")
    intact = store.directory / "datasets" / "y" / "rows" / "labelled.parquet"
    intact.parent.mkdir(parents=True)
    pl.DataFrame({"prediction id": ["id-3"]}).write_parquet(intact)
    temporary = intact.with_name(".labelled.parquet.tmp"), store.directory / ".host-1-1.ndjson.tmp"
    for path in temporary:
        path.write_bytes(b"rows to remove")
    result = forget(store, ["id-3"], [], ignore)
    assert (result.training_rows, result.damaged) == (1, 1)
    assert not damaged.parents[1].exists()
    assert not any(path.exists() for path in temporary)


def test_parquet_files_are_not_world_readable(store: Store) -> None:
    compact(store, NOON, ignore)
    assert {path.stat().st_mode & 0o777 for path in store.parquet_files()} == {0o640}


def test_predictions_are_selected_by_key(store: Store) -> None:
    keys = pl.DataFrame({"id": ["id-3", "id-3", "id-99", "new"], "row": [0, 1, 0, 0]})
    compact(store, NOON, ignore)
    write_segment(store.directory / "host-1-3.ndjson", [prediction(0, id="new")])
    predictions = store.predictions(names=["id"], keys=keys)
    assert sorted(predictions["id"]) == ["id-3", "new"]


def test_forget_waits_for_open_segments(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_segment(store.directory / "host-2-1.ndjson.open", [prediction(50, caller="eve")])
    open_counts = []

    def seal(count: int) -> None:
        open_counts.append(count)
        path.rename(path.with_suffix(""))

    assert forget(store, [], ["eve"], seal).predictions == 1
    assert open_counts == [1]
    monkeypatch.setattr(compaction, "SEALING_SECONDS", 0)
    write_segment(path, [prediction(51)])
    with pytest.raises(MonitoringError, match="segments still open after 0 s: 1, such as "):
        forget(store, [], ["eve"], ignore)


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    damaged = [
        *([1], 5, None, {}, {"id": "x"}),
        prediction(0, time="soon"),
        prediction(0, share=0),
        prediction(0, columns=[1]),
        prediction(0, caller={}),
        prediction(0, shadow=4),
        prediction(0, row=10**20),
    ]
    write_segment(tmp_path / "a.ndjson", [*damaged, prediction(1)], torn="\n\x00 {")
    labels = [[], feedback(0, "yes", row="first"), feedback(0, "yes", caller=[]), feedback(1, "no")]
    write_segment(tmp_path / "feedback" / "a.ndjson", labels)
    assert len(Store(tmp_path).predictions("m")) == 1
    result = compact(Store(tmp_path), NOON, ignore)
    assert (result.predictions, result.feedback) == (1, 1)
    assert result.skipped == len(damaged) + 2 + 3


@pytest.mark.parametrize(
    ("probability", "label", "expected"),
    [
        ([0.82], 1, (0.82, "1", None)),
        (1, True, (1.0, "true", None)),
        ([0.1, 0.9], ["yes"], (None, None, {"probability": [0.1, 0.9], "label": "yes"})),
        (0.5, {"b64": "AA=="}, (None, None, {"probability": 0.5, "label": {"b64": "AA=="}})),
        ("high", None, (None, None, {"probability": "high", "label": None})),
    ],
)
def test_outputs_of_any_type_are_kept(
    tmp_path: Path, probability: object, label: object, expected: tuple[object, ...]
) -> None:
    values = {"probability": probability, "label": label}
    row = prediction(0, **values, shadow={"version": 2, **values})
    write_segment(tmp_path / "a.ndjson", [row])
    assert compact(Store(tmp_path), NOON, ignore).skipped == 0
    (stored,) = Store(tmp_path).predictions("m").to_dicts()
    outputs = stored["outputs"] and json.loads(stored["outputs"])
    assert (stored["probability"], stored["label"], outputs) == expected
    assert (stored["shadow_probability"], stored["shadow_label"]) == expected[:2]


def test_invalid_options_and_plans_are_reported(tmp_path: Path) -> None:
    for options, status, message in (
        ([f"--log={tmp_path / 'no'}"], 1, "is not a directory; --log must name"),
        ([f"--log={tmp_path}", "--keep-bytes=5 parsecs"], 2, "expected a size such as"),
        ([f"--log={tmp_path}", "--keep-days=1000000"], 2, "not in the range 0<=x<=36500"),
    ):
        result = CliRunner().invoke(main, ["compact", *options])
        assert result.exit_code == status
        assert message in result.output
    (tmp_path / "compaction.json").write_text("{")
    result = CliRunner().invoke(main, ["compact", f"--log={tmp_path}"])
    assert result.exit_code == 1
    assert "not the plan of a compaction" in result.output
