"""The process that checks an exported version. Imports nothing heavy, so that it starts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self  # of Python 3.11

COMMAND = (sys.executable, "-m", "training.publishing.export_check")


class FreshProcess:
    """Waits to check a version: it imports TensorFlow, which takes seconds, while a fit runs."""

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

    def __exit__(self, *about: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def check(self, directory: Path, golden: Path) -> str:
        """Compare a version with golden answers; return what is wrong, empty if nothing is."""
        request = json.dumps([str(directory), str(golden)])
        self._process.communicate(request.encode())  # does not mind that it has ended
        if self._process.returncode == 0:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"
