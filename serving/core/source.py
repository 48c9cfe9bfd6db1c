"""The file system source: watches base paths, and says which versions are to be served.

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

VERSION_NAME = re.compile(r"[0-9]+", re.ASCII)
LARGEST_VERSION = 2**63 - 1
# More digits than any number has that is no larger than that, leading zeros apart.
LONGEST_NAME = 255

Aspire = Callable[[str, Mapping[int, Path]], None]


class Source:
    """Looks for versions of the configured models, in a thread of its own."""

    def __init__(self, aspire: Aspire, poll_wait_seconds: float) -> None:
        """Prepare to watch; `start` begins.

        Args:
            aspire: called with a model's name and the paths of the versions it is to have.
            poll_wait_seconds: time between two looks; 0: look once; below 0: never look.
        """
        self._aspire = aspire
        self._poll_wait_seconds = poll_wait_seconds
        self._models: tuple[ModelConfig, ...] = ()
        # Held while looking, so that what was seen before an update is not told after it.
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._told: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def update(self, models: Sequence[ModelConfig]) -> None:
        """Watch these models from now on, and no longer those that are not among them."""
        with self._lock:
            names = {model.name for model in models}
            for gone in [model.name for model in self._models if model.name not in names]:
                self._told.pop(gone, None)
                self._aspire(gone, {})
            self._models = tuple(models)
        # A model that is new need not wait until it is looked for again.
        if self._poll_wait_seconds >= 0:
            self.poll()

    def start(self) -> None:
        """Begin to look."""
        if self._poll_wait_seconds > 0:
            self._thread = threading.Thread(target=self._run, name="source", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def poll(self) -> None:
        """Look at every base path once."""
        with self._lock:
            for model in self._models:
                try:
                    found = aspired_versions(model)
                except OSError as error:
                    self._tell(model, f"cannot list base path {model.base_path}: {error.strerror}")
                    continue
                self._tell(
                    model, "" if found else f"no versions found under base path {model.base_path}"
                )
                self._aspire(model.name, found)

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_wait_seconds):
            try:
                self.poll()
            except Exception:  # the next look may go better, and nobody else takes it
                log.exception("looking for versions failed")

    def _tell(self, model: ModelConfig, trouble: str) -> None:
        """Log what is wrong with a base path, but not each second anew."""
        if trouble and self._told.get(model.name) != trouble:
            log.warning("model %s: %s", model.name, trouble)
        self._told[model.name] = trouble


def aspired_versions(model: ModelConfig) -> dict[int, Path]:
    """Return the paths of the versions that the model's policy selects, by number.

    As in TensorFlow Serving, a version is any child whose whole name is a decimal number, so that
    a directory that is still being written can hide behind any other name.

    Raises:
        OSError: the base path cannot be listed.
    """
    found = {}
    for child in sorted(model.base_path.iterdir()):
        if VERSION_NAME.fullmatch(child.name) and len(child.name) <= LONGEST_NAME:
            number = int(child.name)
            if number <= LARGEST_VERSION:
                found[number] = child
    return {version: found[version] for version in _selected(sorted(found), model.version_policy)}


def _selected(versions: list[int], policy: Any) -> list[int]:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return versions
    if choice == "specific":
        return [version for version in versions if version in policy.specific.versions]
    return versions[-(policy.latest.num_versions or 1) :]
