"""supervisord as a child process: it restarts the model server and the client when they die."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CONFIGURATION = Path(__file__).with_name("supervisord.conf")
# supervisord kills a process that has not ended after two seconds.
STOP_TIMEOUT_SECONDS = 6
LOG_LINES_SHOWN = 15


class Supervisor:
    """A running supervisord and the logs of its processes."""

    def __init__(self, serving: list[str], client: list[str], folder: Path, logs: Path) -> None:
        """Start both commands in `folder`, and remove the logs of an earlier run."""
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        for old in logs.glob("*.log*"):
            old.unlink()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIGURATION)]
        self._process = subprocess.Popen(
            _end_with_parent(command),
            cwd=folder,
            env={
                **os.environ,
                "RUN_SERVING": shlex.join(_end_with_parent(serving)),
                "RUN_CLIENT": shlex.join(_end_with_parent(client)),
                "RUN_LOGS": str(logs),
            },
            # Ctrl-C reaches the whole foreground group; supervisord stops its processes itself.
            start_new_session=True,
        )

    def is_running(self) -> bool:
        """Return whether supervisord has not ended."""
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


def _end_with_parent(command: list[str]) -> list[str]:
    """Send SIGTERM to the command when its parent dies, where the system can do that."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", *command] if setpriv else command
