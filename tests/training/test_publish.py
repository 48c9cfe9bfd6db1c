from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import ROOT, wait_for
from training.publish import publish, versions


def write_two_files(directory: Path) -> None:
    (directory / "saved_model.pb").write_text("graph")
    (directory / "variables").mkdir()
    (directory / "variables" / "data").write_text("numbers")


def publish_ten(models: Path) -> None:
    for _ in range(10):
        publish(write_two_files, models, "m")


def test_the_first_version_is_1_and_each_further_one_the_next_integer(tmp_path: Path) -> None:
    assert publish(write_two_files, tmp_path, "m") == tmp_path / "m" / "1"
    (tmp_path / "m" / "7").mkdir()
    (tmp_path / "m" / "notes").mkdir()
    assert publish(write_two_files, tmp_path, "m") == tmp_path / "m" / "8"
    assert versions(tmp_path / "m") == [1, 7, 8]
    assert (tmp_path / "m" / "8" / "variables" / "data").read_text() == "numbers"


def test_no_version_is_published_beyond_what_servers_read(tmp_path: Path) -> None:
    (tmp_path / "m" / str(2**63 - 1)).mkdir(parents=True)
    with pytest.raises(OSError, match="no version number left"):
        publish(write_two_files, tmp_path, "m")


def test_others_may_read_a_version(tmp_path: Path) -> None:
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


def test_while_a_version_is_written_it_is_hidden(tmp_path: Path) -> None:
    def look(directory: Path) -> None:
        write_two_files(directory)
        assert directory.name.startswith(".m.tmp-")
        assert list((tmp_path / "m").iterdir()) == []

    publish(look, tmp_path, "m")


def test_jobs_that_race_each_get_a_number_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=publish_ten, args=(tmp_path,)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0] * 4
    assert versions(tmp_path / "m") == list(range(1, 41))
    assert all((tmp_path / "m" / str(v) / "variables" / "data").exists() for v in range(1, 41))


WRITE_FOR_EVER = """
import sys, time
from pathlib import Path
from training.publish import publish

def write(directory):
    (directory / "half").write_text("written")
    time.sleep(600)

publish(write, Path(sys.argv[1]), "m")
"""


def test_a_killed_job_leaves_only_a_hidden_directory_and_the_next_removes_it(
    tmp_path: Path,
) -> None:
    job = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: list(tmp_path.glob(".m.tmp-*/half")), "the job writes")
        # As long as the job lives, its directory is left alone.
        publish(write_two_files, tmp_path, "m")
        assert len(list(tmp_path.glob(".m.tmp-*"))) == 1
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert versions(tmp_path / "m") == [1]
    publish(write_two_files, tmp_path, "m")
    assert versions(tmp_path / "m") == [1, 2]
    assert list(tmp_path.glob(".m.tmp-*")) == []


def test_no_reader_ever_sees_part_of_a_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    job = context.Process(target=publish_ten, args=(tmp_path,))
    job.start()
    seen: set[int] = set()
    while job.is_alive() or len(seen) < 10:
        for version in versions(tmp_path / "m"):
            assert (tmp_path / "m" / str(version) / "variables" / "data").read_text() == "numbers"
            seen.add(version)
        time.sleep(0.0005)
    assert seen == set(range(1, 11))


def test_the_lock_of_the_models_directory_is_given_back(tmp_path: Path) -> None:
    publish(write_two_files, tmp_path, "m")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
