"""supervisord as a child process: it restarts the processes of `make run` when they die."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click

# The programs form a group, so that all receive SIGTERM at the same time.
CONFIGURATION = """\
[supervisord]
nodaemon = true
silent = true
logfile = {logs}/supervisord.log
logfile_maxbytes = 1MB
pidfile = {logs}/supervisord.pid

[group:run]
programs = {names}
"""
PROGRAM = """
[program:{name}]
command = {command}
autorestart = true
startretries = 10
stopwaitsecs = 2
killasgroup = true
redirect_stderr = true
stdout_logfile = {logs}/{name}.log
stdout_logfile_maxbytes = 10MB
"""
# supervisord kills a process that has not ended after two seconds.
STOP_TIMEOUT_SECONDS = 6
LOG_LINES_SHOWN = 15
# supervisord takes the rest of a line after one of these for a comment.
COMMENT = re.compile(r"(?<=\s)([;#])")


class Supervisor:
    """A running supervisord and the logs of its processes."""

    def __init__(self, programs: Mapping[str, list[str]], folder: Path, logs: Path) -> None:
        """Start all commands in `folder`, and remove the logs of an earlier run.

        Args:
            programs: commands by name; `NAME.log` is the log of each.
            folder: working directory of the commands.
            logs: directory of the logs.
        """
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        for old in logs.glob("*.log*"):
            old.unlink()
        configuration = logs / "supervisord.conf"
        configuration.write_text(_configuration(programs, logs))
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
        self._process = subprocess.Popen(
            _end_with_parent(command),
            cwd=folder,
            # Ctrl-C reaches the whole foreground group; supervisord stops its processes itself.
            start_new_session=True,
        )

    def is_running(self) -> bool:
        """Return whether supervisord is still running."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop every process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def last_lines(self) -> str:
        """Return the end of each log."""
        lines: list[str] = []
        for log in sorted(self.logs.glob("*.log")):
            lines.append(f"--- {log.name}")
            lines += log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join(lines)


def _configuration(programs: Mapping[str, list[str]], logs: Path) -> str:
    folder = _escaped(str(logs))
    if COMMENT.search(folder):
        raise click.ClickException(f'{logs}: expected a path without " #" or " ;"')
    parts = [CONFIGURATION.format(logs=folder, names=", ".join(programs))]
    for name, command in programs.items():
        # Arguments with spaces are in single quotes, which end and begin again around a character
        # that would start a comment.
        line = COMMENT.sub(r"""'"\1"'""", shlex.join(_end_with_parent(command)))
        parts.append(PROGRAM.format(name=name, command=_escaped(line), logs=folder))
    return "".join(parts)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _end_with_parent(command: list[str]) -> list[str]:
    """Return a command that receives SIGTERM when its parent dies, if `setpriv` is installed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", *command] if setpriv else command
