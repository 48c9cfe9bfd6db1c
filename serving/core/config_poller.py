"""Reloads the model config file periodically."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from serving.config.text_proto import ConfigError
from serving.core.model_config import read_config_file
from serving.core.server_core import ServerCore
from serving.errors import ServingError

log = logging.getLogger(__name__)


class ConfigPoller:
    """Reads the config file in its own thread and applies it."""

    def __init__(self, core: ServerCore, path: Path, wait_seconds: float) -> None:
        """Set up polling; see `start`.

        Args:
            core: applies each configuration.
            path: the config file.
            wait_seconds: time between two reads.
        """
        self._core = core
        self._path = path
        self._wait_seconds = wait_seconds
        self._stopped = threading.Event()
        self._last_problem = ""  # a lasting problem is logged once

    def start(self) -> None:
        """Start polling."""
        threading.Thread(target=self._run, name="config", daemon=True).start()

    def stop(self) -> None:
        """Stop polling."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._wait_seconds):
            problem = ""
            try:
                # Waiting for new models would delay the next read.
                self._core.reload(read_config_file(self._path), cancelled=lambda: True)
            except (ConfigError, ServingError) as error:
                problem = str(error)
            except Exception:
                log.exception("reloading the configuration failed")
            if problem and problem != self._last_problem:
                log.error("keeping the current configuration: %s", problem)
            self._last_problem = problem
