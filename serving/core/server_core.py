"""The core: one configuration in force, and how another takes its place.

config → source → manager; and labels, which are part of the configuration only.
See tensorflow_serving/model_servers/server_core.cc.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.core.manager import Manager
from serving.core.model_config import (
    ConfigError,
    ModelConfig,
    check_platforms,
    model_configs,
    read_config_file,
)
from serving.core.servable_harness import Version
from serving.core.source import Source, aspired_versions
from serving.errors import ServingError, failed_precondition, invalid_argument, not_found

log = logging.getLogger(__name__)

SHORT_PATIENCE_SECONDS = 1.0

Labels = Mapping[str, Mapping[str, int]]


class ServerCore:
    """What the services ask: which version a request means, and what state each is in."""

    def __init__(
        self,
        manager: Manager,
        source: Source,
        *,
        allow_labels_for_unavailable: bool = False,
    ) -> None:
        """Serve nothing yet.

        Args:
            manager: has the versions.
            source: tells the manager which to have.
            allow_labels_for_unavailable: whether a new label may be given to a version that is not
                available.
        """
        self._manager = manager
        self._source = source
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._models: tuple[ModelConfig, ...] = ()
        self._labels: Labels = {}
        # One reload at a time; waiting for new models to load is not part of it.
        self._reloading = threading.Lock()

    @property
    def model_names(self) -> list[str]:
        """The names of the models that are configured."""
        return [model.name for model in self._models]

    def start(self, config: Any, patience: float, stopped: Callable[[], bool]) -> None:
        """Take the first configuration, and return when its models can be asked.

        Base paths may be empty or missing; their first version is waited for. If loading takes
        several attempts, it is waited for no longer than `patience`.

        Args:
            config: a `ModelServerConfig`.
            patience: seconds from the first load that failed on.
            stopped: asked while waiting; whether not to wait any more.

        Raises:
            ServingError: the configuration is wrong, or a model cannot be loaded.
        """
        models = model_configs(config)
        self._labels = self._checked_labels(models)
        check_platforms(config)
        self._models = tuple(models)
        self._source.update(models)
        self._source.start()
        give_up = _Patience(self._manager, self.model_names, patience).is_over
        settled = self._manager.wait_settled(self.model_names, until=lambda: stopped() or give_up())
        self._manager.end_initial_loads()
        _check_available(settled)

    def reload(
        self,
        config: Any,
        root: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Put another configuration in force, and return when its new models can be asked.

        A configuration that is wrong leaves the old one in force.

        Args:
            config: a `ModelServerConfig`.
            root: the directory below which base paths must be; None: anywhere.
            cancelled: asked while waiting; whether nobody waits for the answer any more.

        Raises:
            ServingError: the configuration is wrong, or a new model cannot be loaded.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        with self._reloading:
            models = model_configs(config, root, self.model_names)
            labels = self._checked_labels(models)
            check_platforms(config)
            known = set(self.model_names)
            new = [model for model in models if model.name not in known]
            for model in new:
                # A model without a name can be configured and not be asked for.
                if model.name:
                    _check_has_versions(model)
            self._labels, self._models = labels, tuple(models)
            self._source.update(models)
        names = [model.name for model in new if model.name]
        # Whoever removes a model while it loads must not leave this call waiting for it.
        settled = self._manager.wait_settled(
            names, until=lambda: cancelled() or not set(names) <= set(self.model_names)
        )
        _check_available(settled)

    @contextmanager
    def use(self, model_spec: Any) -> Iterator[Version]:
        """Hold the version that a ModelSpec asks for; while held it is not unloaded.

        Raises:
            ServingError: the spec is incomplete, or asks for what is not available.
        """
        if not model_spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        with self._manager.use(model_spec.name, self._number(model_spec)) as version:
            yield version

    def status(self, model_spec: Any) -> list[Version]:
        """Return the versions of a model, newest first, or the one a ModelSpec names.

        As in TensorFlow Serving a label is not looked at.

        Raises:
            ServingError: NOT_FOUND, there is no such model or version.
        """
        versions = self._manager.versions(model_spec.name)
        if not model_spec.HasField("version"):
            if not versions:
                raise not_found(f"Could not find any versions of model {model_spec.name}")
            return versions
        number = model_spec.version.value
        found = [version for version in versions if version.number == number]
        if not found:
            raise not_found(f"Could not find version {number} of model {model_spec.name}")
        return found

    def is_available(self, name: str) -> bool:
        """Tell whether a model is configured and has a version that answers requests."""
        return name in self.model_names and self._manager.is_available(name)

    def _number(self, model_spec: Any) -> int | None:
        """Return the version that is asked for by number or label; None is the latest."""
        choice = model_spec.WhichOneof("version_choice")
        if choice == "version":
            number: int = model_spec.version.value
            return number
        if choice == "version_label":
            labels = self._labels.get(model_spec.name, {})
            if model_spec.version_label not in labels:
                raise invalid_argument(
                    f"Unrecognized servable version label: {model_spec.version_label}"
                )
            return labels[model_spec.version_label]
        return None

    def _checked_labels(self, models: Sequence[ModelConfig]) -> Labels:
        for model in models:
            old = self._labels.get(model.name, {})
            for label, number in model.version_labels.items():
                moved = old.get(label, number) != number
                free = self._allow_labels_for_unavailable and not moved
                if not free and not self._manager.is_available(model.name, number):
                    raise failed_precondition(
                        f"Request to assign label to version {number} of model {model.name}, "
                        "which is not currently available for inference"
                    )
        return {model.name: model.version_labels for model in models}


class ConfigPoller:
    """Reads the config file again and again, and puts what it says in force."""

    def __init__(self, core: ServerCore, path: Path, wait_seconds: float) -> None:
        """Prepare; `start` begins.

        Args:
            core: where the configuration goes.
            path: the file.
            wait_seconds: time between two looks.
        """
        self._core = core
        self._path = path
        self._wait_seconds = wait_seconds
        self._stopped = threading.Event()
        self._told = ""

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._run, name="config", daemon=True).start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._wait_seconds):
            trouble = ""
            try:
                self._core.reload(read_config_file(self._path))
            except (ConfigError, ServingError) as error:
                trouble = str(error)
            except Exception:
                log.exception("reading the configuration again failed")
            if trouble and trouble != self._told:
                log.error("the configuration stays as it was: %s", trouble)
            self._told = trouble


class _Patience:
    """Says when first loads that fail have been waited for long enough.

    The original waits only until any version of a model has loaded or failed. Here the newest is
    waited for, a moment if another one can answer in its place.
    """

    def __init__(self, manager: Manager, names: Sequence[str], seconds: float) -> None:
        self._manager = manager
        self._names = names
        self._seconds = seconds
        self._failed_at: float | None = None

    def is_over(self) -> bool:
        if self._failed_at is None:
            versions = [version for name in self._names for version in self._manager.versions(name)]
            if all(version.last_error is None for version in versions):
                return False
            self._failed_at = time.monotonic()
        all_answer = all(self._manager.is_available(name) for name in self._names)
        seconds = min(self._seconds, SHORT_PATIENCE_SECONDS) if all_answer else self._seconds
        return time.monotonic() - self._failed_at > seconds


def _check_has_versions(model: ModelConfig) -> None:
    try:
        if aspired_versions(model):
            return
        trouble = "no version to serve was found there"
    except OSError as error:
        trouble = str(error.strerror)
    raise failed_precondition(
        f"Model {model.name} cannot be served from base path {model.base_path}: {trouble}"
    )


def _check_available(settled: Sequence[Version]) -> None:
    failed = [v for v in settled if v.error is not None]
    if failed:
        reasons = "".join(
            f"{{{v} due to error: {v.error.code.name}: {v.error.message}}}, "
            for v in failed
            if v.error is not None
        )
        raise ServingError.from_number(
            2, f"{len(failed)} model(s) did not become available: {{{reasons}}}"
        )
