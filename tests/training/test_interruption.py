from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.forked import fit
from tests.support.processes import ROOT, wait_for
from training.data.reading import open_source
from training.data.table import Choice
from training.errors import ResumeError
from training.fitting.checkpoint import path_for
from training.fitting.minimize import InterruptedFitError
from training.pipeline import Observer, PublishedVersion, Target, run
from training.publishing.saved_version import SavedVersion
from training.publishing.versions import versions
from training.settings import FitSettings

STEPS = 3000
SETTINGS = FitSettings(optimizer="gradient-descent", iterations=STEPS, tolerance=0.0, l2=0.0)
OPTIONS = (
    "--label=y",
    "--model=m",
    "--optimizer=gradient-descent",
    f"--iterations={STEPS}",
    "--tolerance=0",
    "--l2=0",
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STEP = re.compile(r"([0-9,]+) of [0-9,]+, cost")


class Command:
    """`python -m training` with a terminal as standard error, where it shows its progress."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._terminal, child_end = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "training", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=child_end,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
            start_new_session=True,
        )
        os.close(child_end)
        self._output = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._terminal, 1 << 16):
                self._output += data
        except OSError:
            pass  # the other end is closed
        os.close(self._terminal)

    def output(self) -> str:
        return ESCAPES.sub("", self._output.decode(errors="replace"))

    def steps(self) -> int:
        """Return the number of steps shown by the progress bar."""
        counts = STEP.findall(self.output())
        return int(counts[-1].replace(",", "")) if counts else 0

    def wait_for_steps(self, count: int) -> None:
        def reached() -> bool:
            assert self.process.poll() is None, self.output()
            return self.steps() >= count

        wait_for(reached, f"{count} steps", 240)

    def last_line(self, seconds: float = 120) -> str:
        """Wait until the command ends and return the last line of its output."""
        self.process.wait(seconds)
        self._reader.join()
        return self.output().strip().splitlines()[-1].strip()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self._reader.join()


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """Commands to stop at the end of the test."""
    started: list[Command] = []
    yield started
    for command in started:
        command.close()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 3))
    labels = np.where(random.random(2000) < 1 / (1 + np.exp(-x.sum(axis=1))), "yes", "no")
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": labels}).write_csv(path)
    return path


def run_job(
    table: Path,
    models: Path,
    settings: FitSettings = SETTINGS,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> PublishedVersion:
    target = Target(models, "m")
    source = open_source(str(table))
    published = run(source, Choice("y"), settings, target, resume=resume, observer=observer)
    assert published is not None
    return published


def output_bytes(version: Path) -> list[bytes]:
    """Return the outputs of a version that depend on each weight."""
    loaded = SavedVersion(version)
    rows = {name: np.linspace(-2, 2, 9, dtype=np.float32) for name in "abc"}
    outputs = loaded.run("explain", rows)
    return [outputs["contribution"].tobytes(), outputs["bias"].tobytes()]


def test_fit_interrupted_twice_gives_same_weights_as_uninterrupted_fit(
    table: Path, tmp_path: Path, commands: list[Command]
) -> None:
    models, temporary = tmp_path / "models", tmp_path / "temporary"
    temporary.mkdir()

    def start(*options: str) -> Command:
        command = Command(
            "fit",
            f"--models={models}",
            f"--data={table}",
            *OPTIONS,
            *options,
            TMPDIR=str(temporary),
        )
        commands.append(command)
        return command

    steps = 0
    for signal_number, options in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        command = start(*options)
        command.wait_for_steps(steps + 100)
        command.process.send_signal(signal_number)
        match = re.fullmatch(
            r"Interrupted: --resume continues after step (\d+)", command.last_line()
        )
        assert command.process.returncode == 128 + signal_number
        assert "Traceback" not in command.output()
        assert match is not None, command.output()
        assert steps + 100 <= int(match[1]) < STEPS
        steps = int(match[1])
        assert [path.name for path in models.iterdir()] == [".m.checkpoint"]
        assert list(temporary.iterdir()) == []

    resumed = start("--resume", "--quiet")
    out, _ = resumed.process.communicate(timeout=240)
    assert resumed.process.returncode == 0, resumed.output()
    assert out.decode().strip() == str(models / "m" / "1")
    assert [path.name for path in models.iterdir()] == ["m"]
    assert list(temporary.iterdir()) == []

    uninterrupted = run_job(table, tmp_path / "uninterrupted")
    assert uninterrupted.candidate.fit.progress.state.steps == STEPS
    assert output_bytes(models / "m" / "1") == output_bytes(uninterrupted.version)


def test_job_stopped_while_reading_leaves_nothing_behind(
    tmp_path: Path, commands: list[Command]
) -> None:
    models, temporary = tmp_path / "models", tmp_path / "temporary"
    models.mkdir()
    temporary.mkdir()
    options = (f"--models={models}", "--data=-", "--label=y", "--model=m")
    command = Command("fit", *options, TMPDIR=str(temporary))
    commands.append(command)
    rows = b"a,y\n" + b"1.5,yes\n2.5,no\n" * 600_000  # more than the 8 MB inspected first
    assert command.process.stdin is not None
    command.process.stdin.write(rows)
    command.process.stdin.flush()  # and standard input stays open
    wait_for(lambda: list(temporary.glob("training-*")), "the job reads", 240)
    time.sleep(0.5)
    command.process.send_signal(signal.SIGTERM)
    assert command.last_line() == "Interrupted: nothing was published"
    assert command.process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in command.output()
    assert list(models.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_job_stopped_while_publishing_keeps_checkpoint(table: Path, tmp_path: Path) -> None:
    def stop(stage: str) -> None:
        if stage == "checking and publishing":
            raise KeyboardInterrupt  # as the signal handler does

    settings = FitSettings(optimizer="newton")
    with pytest.raises(InterruptedFitError) as caught:
        run_job(table, tmp_path, settings, observer=Observer(stage=stop))
    assert [path.name for path in tmp_path.iterdir()] == [".m.checkpoint"]
    steps = caught.value.progress.state.steps
    assert str(caught.value) == f"--resume continues after step {steps}"

    new_steps: list[int] = []
    resumed = run_job(
        table,
        tmp_path,
        settings,
        resume=True,
        observer=Observer(stepped=lambda step, cost: new_steps.append(step)),
    )
    assert new_steps == []
    assert resumed.candidate.fit.progress.state.steps == steps
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert versions(tmp_path / "m") == [1]


def interrupt_after(steps: int, table: Path, models: Path, settings: FitSettings) -> None:
    def stop(step: int, cost: float) -> None:
        if step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    from training.fitting.interruption import StopSignals

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signals = StopSignals()
    signals.install()
    try:
        with pytest.raises(InterruptedFitError, match=f"after step {steps}$"):
            run(
                open_source(str(table)),
                Choice("y"),
                settings,
                Target(models, "m"),
                signals=signals,
                observer=Observer(stepped=stop),
            )
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_resuming_with_other_settings_or_data_is_rejected(table: Path, tmp_path: Path) -> None:
    settings = FitSettings(iterations=50, tolerance=0.0)
    interrupt_after(7, table, tmp_path, settings)
    checkpoint = path_for(tmp_path, "m").read_bytes()
    message = r"^the interrupted fit had seed 0, this one has 1$"
    with pytest.raises(ResumeError, match=message):
        run_job(table, tmp_path, FitSettings(iterations=50, tolerance=0.0, seed=1), resume=True)
    other_table = tmp_path / "other.csv"
    other_table.write_text(table.read_text().replace("yes", "no", 1))
    with pytest.raises(ResumeError, match="the interrupted fit had data source "):
        run_job(other_table, tmp_path, settings, resume=True)
    assert path_for(tmp_path, "m").read_bytes() == checkpoint


def test_missing_or_invalid_checkpoint_is_reported_in_one_line(table: Path, tmp_path: Path) -> None:
    options = (f"--data={table}", *OPTIONS, "--resume")
    process = fit(tmp_path, *options)
    assert process.returncode == 1
    checkpoint = path_for(tmp_path, "m")
    assert process.stderr.strip() == f"Error: there is no checkpoint {checkpoint} to resume from"
    checkpoint.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ResumeError, match=f"^{checkpoint} is not a checkpoint: "):
        run_job(table, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [".m.checkpoint"]
