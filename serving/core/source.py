"""The file system source: polls base paths and aspires the versions it finds.

See tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.core.model_config import ModelConfig

log = logging.getLogger(__name__)

# A number as absl::SimpleAtoi parses it: whitespace around it and a plus sign are allowed.
VERSION_NAME = re.compile(r"[\t-\r ]*\+?([0-9]+)[\t-\r ]*", re.ASCII)
MAX_VERSION = 2**63 - 1
# Keeps int() cheap and below its digit limit; longer names exceed `MAX_VERSION` unless padded.
MAX_NAME_LENGTH = 255

Aspire = Callable[[str, Mapping[int, Path]], None]


class Source:
    """Polls the base paths of the configured models in its own thread."""

    def __init__(self, aspire: Aspire, poll_wait_seconds: float) -> None:
        """Start without models.

        Args:
            aspire: called with a model's name and the paths of its versions.
            poll_wait_seconds: time between two polls; 0: poll only in `update`; negative: never.
        """
        self._aspire = aspire
        self._poll_wait_seconds = poll_wait_seconds
        self._models: tuple[ModelConfig, ...] = ()
        # Held during a poll, so that the result of an older poll never follows an update.
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._warnings: dict[str, str] = {}

    def update(self, models: Sequence[ModelConfig]) -> None:
        """Watch these models instead of the previous ones."""
        with self._lock:
            names = {model.name for model in models}
            for name in [model.name for model in self._models if model.name not in names]:
                self._warnings.pop(name, None)
                self._aspire(name, {})
            self._models = tuple(models)
        # A new model need not wait for the next poll.
        if self._poll_wait_seconds >= 0:
            self.poll()

    def start(self) -> None:
        """Start polling."""
        if self._poll_wait_seconds > 0:
            threading.Thread(target=self._run, name="source", daemon=True).start()

    def stop(self) -> None:
        """Stop polling, without waiting for a listing, which may hang."""
        self._stopped.set()

    def poll(self) -> None:
        """List every base path once."""
        with self._lock:
            for model in self._models:
                try:
                    versions = aspired_versions(model)
                except OSError as error:
                    self._warn(model, f"cannot list base path {model.base_path}: {error.strerror}")
                    continue
                if self._stopped.is_set():
                    return
                problem = "" if versions else f"no versions found under base path {model.base_path}"
                self._warn(model, problem)
                self._aspire(model.name, versions)

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_wait_seconds):
            try:
                self.poll()
            except Exception:  # the next poll may succeed
                log.exception("polling for versions failed")

    def _warn(self, model: ModelConfig, problem: str) -> None:
        """Log a problem with a base path once, until it changes."""
        if problem and self._warnings.get(model.name) != problem:
            log.warning("model %s: %s", model.name, problem)
        self._warnings[model.name] = problem


def aspired_versions(model: ModelConfig) -> dict[int, Path]:
    """Return the paths of the versions that the model's policy selects, by number.

    A version is any child whose whole name is a decimal number, so a directory that is still being
    written must have another name.

    Raises:
        OSError: the base path cannot be listed.
    """
    paths = {}
    for child in sorted(model.base_path.iterdir()):
        match = VERSION_NAME.fullmatch(child.name)
        if match and len(child.name) <= MAX_NAME_LENGTH and int(match[1]) <= MAX_VERSION:
            paths[int(match[1])] = child
    selected = _select_versions(sorted(paths), model.version_policy)
    return {version: paths[version] for version in selected}


def _select_versions(versions: list[int], policy: Any) -> list[int]:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return versions
    if choice == "specific":
        return [version for version in versions if version in policy.specific.versions]
    return versions[-(policy.latest.num_versions or 1) :]
