"""supervisord as a child process, which restarts the processes of `make run` when they die."""

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
stopwaitsecs = 15
killasgroup = true
redirect_stderr = true
stdout_logfile = {logs}/{name}.log
stdout_logfile_maxbytes = 10MB
"""
# Longer than `stopwaitsecs`, after which supervisord kills a process.
STOP_TIMEOUT_SECONDS = 20
LOG_LINES_SHOWN = 15
# supervisord treats the rest of a line after one of these characters as a comment.
COMMENT_START = re.compile(r"(?<=\s)([;#])")


class Supervisor:
    """A running supervisord and the logs of its processes."""

    def __init__(self, programs: Mapping[str, list[str]], folder: Path, logs: Path) -> None:
        """Remove the logs of an earlier run and start all commands in `folder`.

        Args:
            programs: commands by name; `NAME.log` is the log of each.
            folder: working directory of the commands.
            logs: directory of the logs.
        """
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        for log in logs.glob("*.log*"):
            log.unlink()
        configuration = logs / "supervisord.conf"
        configuration.write_text(_render_configuration(programs, logs))
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


def _render_configuration(programs: Mapping[str, list[str]], logs: Path) -> str:
    escaped_logs = _escape(str(logs))
    if COMMENT_START.search(escaped_logs):
        raise click.ClickException(f'{logs}: expected a path without " #" or " ;"')
    sections = [CONFIGURATION.format(logs=escaped_logs, names=", ".join(programs))]
    for name, command in programs.items():
        # `shlex` has put the character and the space before it in single quotes. In double quotes
        # of its own, the character no longer follows a space.
        command_line = COMMENT_START.sub(r"""'"\1"'""", shlex.join(_end_with_parent(command)))
        escaped_command = _escape(command_line)
        sections.append(PROGRAM.format(name=name, command=escaped_command, logs=escaped_logs))
    return "".join(sections)


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _end_with_parent(command: list[str]) -> list[str]:
    """Return a command that receives SIGTERM when its parent dies, if `setpriv` is installed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", *command] if setpriv else command
