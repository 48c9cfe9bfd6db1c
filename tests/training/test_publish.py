from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.conftest import skip_or_fail
from tests.support.forked import fit
from tests.support.processes import ROOT, wait_for
from tests.support.publishing import publish_ten, write_two_files
from tests.support.tables import fit_table
from training.export.serving_module import export
from training.pipeline import Candidate, Target, gate_and_publish
from training.publishing import manifest
from training.publishing.file_hashes import file_hashes, verify
from training.publishing.saved_version import SavedVersion
from training.publishing.versions import keep_newest, publish, versions
from training.settings import FitSettings

KILLS = 25


def test_first_version_is_1_and_next_follows_highest(tmp_path: Path) -> None:
    assert publish(write_two_files, tmp_path, "m") == tmp_path / "m" / "1"
    (tmp_path / "m" / "7").mkdir()
    (tmp_path / "m" / "notes").mkdir()
    assert publish(write_two_files, tmp_path, "m") == tmp_path / "m" / "8"
    assert versions(tmp_path / "m") == [1, 7, 8]
    assert (tmp_path / "m" / "8" / "variables" / "data").read_text() == "numbers"


def test_version_number_beyond_server_limit_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "m" / str(2**63 - 1)).mkdir(parents=True)
    with pytest.raises(OSError, match="no version number left"):
        publish(write_two_files, tmp_path, "m")


def test_keep_newest_ignores_directories_with_leading_zeros(tmp_path: Path) -> None:
    for name in ("00000001", "2", "3"):
        (tmp_path / "m" / name).mkdir(parents=True)
    keep_newest(tmp_path, "m", 1)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["00000001", "3"]


def test_model_name_is_not_treated_as_glob(tmp_path: Path) -> None:
    mine, other = tmp_path / ".m[1].tmp-dead", tmp_path / ".m1.tmp-dead"
    mine.mkdir()
    other.mkdir()
    publish(write_two_files, tmp_path, "m[1]")
    assert (mine.exists(), other.exists()) == (False, True)


def test_version_is_readable_by_other_users(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        version = publish(write_two_files, tmp_path, "m")
    finally:
        os.umask(before)
    assert version.stat().st_mode & 0o777 == 0o755


def test_nothing_is_published_if_writing_fails(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        write_two_files(directory)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(fail, tmp_path, "m")
    assert versions(tmp_path / "m") == []
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_version_is_hidden_while_written(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        write_two_files(directory)
        assert directory.name.startswith(".m.tmp-")
        assert list((tmp_path / "m").iterdir()) == []

    publish(write, tmp_path, "m")


def test_concurrent_jobs_get_distinct_version_numbers(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=publish_ten, args=(tmp_path,)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0] * 4
    assert versions(tmp_path / "m") == list(range(1, 41))
    assert all((tmp_path / "m" / str(v) / "variables" / "data").exists() for v in range(1, 41))


WRITE_FOREVER = """
import sys, time
from pathlib import Path
from training.publishing.versions import publish

def write(directory):
    (directory / "half").write_text("written")
    time.sleep(600)

publish(write, Path(sys.argv[1]), "m")
"""


def test_next_job_removes_hidden_directory_of_killed_job(tmp_path: Path) -> None:
    job = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: list(tmp_path.glob(".m.tmp-*/half")), "the job writes")
        # While the job runs, its directory is kept.
        publish(write_two_files, tmp_path, "m")
        assert len(list(tmp_path.glob(".m.tmp-*"))) == 1
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert versions(tmp_path / "m") == [1]
    publish(write_two_files, tmp_path, "m")
    assert versions(tmp_path / "m") == [1, 2]
    assert list(tmp_path.glob(".m.tmp-*")) == []


def test_reader_never_sees_partial_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    job = context.Process(target=publish_ten, args=(tmp_path,))
    job.start()
    seen: set[int] = set()
    is_running = True
    while is_running:
        is_running = job.is_alive()
        for version in versions(tmp_path / "m"):
            assert (tmp_path / "m" / str(version) / "variables" / "data").read_text() == "numbers"
            seen.add(version)
        time.sleep(0.0005)
    assert seen == set(range(1, 11))


def test_lock_on_models_directory_is_released(tmp_path: Path) -> None:
    publish(write_two_files, tmp_path, "m")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


PUBLISH_FOREVER = """
import shutil, sys
from pathlib import Path
from training.publishing import manifest
from training.publishing.versions import publish

def write(directory):
    shutil.copytree(sys.argv[2], directory, dirs_exist_ok=True)
    manifest.write(directory, manifest.Manifest())

while True:
    print(publish(write, Path(sys.argv[1]), "m"), flush=True)
"""


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fit_table(FitSettings(optimizer="newton"))


def test_job_killed_at_any_time_leaves_only_complete_versions(
    tmp_path: Path, candidate: Candidate
) -> None:
    saved, models = tmp_path / "saved", tmp_path / "models"
    export(candidate.model, saved)
    rng = random.Random(0)
    abandoned = 0
    for _ in range(KILLS):
        job = subprocess.Popen(
            [sys.executable, "-c", PUBLISH_FOREVER, str(models), str(saved)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert job.stdout is not None
        with job.stdout:
            job.stdout.readline()  # it has published a version
            time.sleep(rng.uniform(0, 0.05))
            job.send_signal(signal.SIGKILL)
            job.wait()
        abandoned += len(list(models.glob(".m.tmp-*")))
    assert abandoned >= 5  # enough kills interrupted a write
    numbers = versions(models / "m")
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= KILLS
    files = len(list(file_hashes(saved)))
    assert {verify(models / "m" / str(number)) for number in numbers} == {files}
    inputs = candidate.model.inputs(candidate.held_out.frame)
    SavedVersion(models / "m" / str(numbers[-1])).run("serving_default", inputs)

    publish(write_two_files, models, "m")
    assert [path.name for path in models.iterdir()] == ["m"]


def test_two_concurrent_jobs_both_publish(tmp_path: Path) -> None:
    options = ("--json", "--optimizer=newton", "--gate-tolerance=1", "--quiet")
    with ThreadPoolExecutor(2) as pool:
        jobs = pool.map(lambda seed: fit(tmp_path, *options, f"--seed={seed}"), (0, 1))
    results = []
    for job in jobs:
        assert job.returncode == 0, job.stderr
        results.append(json.loads(job.stdout))
    assert sorted(result["version"] for result in results) == [1, 2]
    for seed, result in enumerate(results):
        settings = manifest.read(Path(result["path"])).settings
        assert settings is not None
        assert settings.seed == seed
        assert verify(Path(result["path"])) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["breast_cancer"]


Mount = Callable[..., None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """An empty file system, and a function that remounts it with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> None:
        process = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            skip_or_fail(f"file systems cannot be mounted here: {process.stderr.strip()}")

    mount("size=64m")
    yield folder, mount
    subprocess.run(["umount", str(folder)], check=True)


def size_on_disk(candidate: Candidate, folder: Path) -> int:
    """Return the size of a version on disk in KiB."""
    version, _ = gate_and_publish(candidate, Target(folder, "m"))
    return sum(-(-path.stat().st_size // 4096) * 4 for path in version.rglob("*") if path.is_file())


def test_nothing_is_published_if_disk_is_full(
    tmp_path: Path, candidate: Candidate, disk: tuple[Path, Mount]
) -> None:
    folder, mount = disk
    version_size = size_on_disk(candidate, tmp_path / "elsewhere")
    for size in (4, 64, version_size - 4):
        mount(f"size={version_size + 64}k", "remount")
        (folder / "m" / "1").mkdir(parents=True, exist_ok=True)
        ballast = folder / "ballast"
        ballast.write_bytes(bytes((version_size + 64 - size) * 1024))
        with pytest.raises(OSError, match="o space left on device"):
            gate_and_publish(candidate, Target(folder, "m"))
        assert versions(folder / "m") == [1]
        assert sorted(path.name for path in folder.iterdir()) == ["ballast", "m"]
        ballast.unlink()


def test_full_models_disk_is_reported_in_one_line(disk: tuple[Path, Mount]) -> None:
    folder, mount = disk
    (folder / "breast_cancer" / "1").mkdir(parents=True)
    mount("size=64k", "remount")
    process = fit(folder, "--optimizer=newton", "--quiet")
    assert process.returncode == 1
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert process.stderr.startswith("Error: cannot read or write: ")
    assert "o space left on device" in process.stderr
    assert [path.name for path in folder.iterdir()] == ["breast_cancer"]
    assert versions(folder / "breast_cancer") == [1]


def test_read_only_models_directory_is_reported_in_one_line(disk: tuple[Path, Mount]) -> None:
    folder, mount = disk
    version = publish(write_two_files, folder, "breast_cancer")
    mount("ro", "remount")
    process = fit(folder, "--optimizer=newton", "--quiet")
    assert process.returncode == 1
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert process.stderr.startswith("Error: cannot read or write: ")
    assert f"Read-only file system: '{folder}" in process.stderr
    assert (version / "saved_model.pb").read_text() == "graph"
    assert versions(folder / "breast_cancer") == [1]


def test_full_temporary_disk_is_reported_in_one_line(
    tmp_path: Path, disk: tuple[Path, Mount]
) -> None:
    folder, mount = disk
    mount("size=64k", "remount")
    rows = 120_000  # more than a block, the unit of writing
    numbers = np.random.default_rng(0).normal(size=rows).astype(np.float32)
    data = tmp_path / "rows.csv"
    pl.DataFrame({"a": numbers, "y": np.where(numbers > 0, "yes", "no")}).write_csv(data)
    command = [sys.executable, "-m", "training", "fit", f"--models={tmp_path / 'models'}"]
    process = subprocess.run(
        [*command, f"--data={data}", "--label=y", "--model=m", "--memory=0", "--quiet"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert process.stderr.startswith("Error: cannot read or write: ")
    assert "No space left on device" in process.stderr
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "models").exists()
