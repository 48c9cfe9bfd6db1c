"""The process that checks an exported version. Imports nothing heavy, so that it starts quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11

COMMAND = (sys.executable, "-m", "training.publishing.export_check")


class FreshProcess:
    """A process that imports TensorFlow while a fit runs and then checks a version."""

    def __init__(self) -> None:
        # TF_CONFIG would make TensorFlow wait for other workers.
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the fit, which ends this process
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def check(self, directory: Path, golden: Path) -> str:
        """Compare a version with expected outputs; return the problem, "" if there is none.

        `golden` is a file of calls with their expected outputs, see `warmup.write_calls`.
        """
        request = json.dumps([str(directory), str(golden)])
        self._process.communicate(request.encode())  # no error if the process has ended
        if self._process.returncode == 0:
            return ""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        # TensorFlow's errors end with the operation, as in [[{{node Assert}}]] [Op:serve].
        lines = [line for line in map(str.strip, text.splitlines()) if line and line[:2] != "[["]
        return lines[-1] if lines else "the check ended without a message"
