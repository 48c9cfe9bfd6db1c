"""The supervisor passes any characters in the arguments of its processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from launcher.supervisor import Supervisor
from tests.support.processes import wait_for

WRITE_ARGUMENTS = """
import json, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(json.dumps(sys.argv[2:]))
time.sleep(600)
"""

FINISH_IN_THREE_SECONDS = """
import signal, sys, time
from pathlib import Path
started, finished = map(Path, sys.argv[1:])
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
try:
    started.touch()
    time.sleep(600)
finally:
    time.sleep(3)
    finished.touch()
"""


def test_arguments_are_passed_unchanged(tmp_path: Path) -> None:
    output = tmp_path / "arguments"
    arguments = ["/a b #1/m", "x ;y", "#", "50%", 'it\'s "quoted" #', "é", ""]
    program = tmp_path / "program.py"
    program.write_text(WRITE_ARGUMENTS)
    command = [sys.executable, str(program), str(output), *arguments]
    supervisor = Supervisor({"program": command}, tmp_path, tmp_path / "logs")
    try:
        wait_for(lambda: output.exists() and output.read_text(), "the program runs")
        assert json.loads(output.read_text()) == arguments
    finally:
        supervisor.stop()


def test_stopped_process_has_time_to_finish_its_requests(tmp_path: Path) -> None:
    started, finished = tmp_path / "started", tmp_path / "finished"
    program = tmp_path / "program.py"
    program.write_text(FINISH_IN_THREE_SECONDS)
    command = [sys.executable, str(program), str(started), str(finished)]
    supervisor = Supervisor({"one": command}, tmp_path, tmp_path / "logs")
    try:
        wait_for(started.exists, "the program runs")
    finally:
        supervisor.stop()
    assert finished.exists()


def test_folder_name_that_supervisord_cannot_parse_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="expected a path without"):
        Supervisor({}, tmp_path, tmp_path / "with #1" / "logs")
