"""The server core: the current configuration, its labels, and reloads.

See tensorflow_serving/model_servers/server_core.cc.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.core.manager import Manager
from serving.core.model_config import ModelConfig, check_platforms, model_configs
from serving.core.servable_harness import ServableHarness
from serving.core.source import Source, aspired_versions
from serving.errors import ServingError, failed_precondition, invalid_argument, not_found
from serving.servables.servable import Servable

# Maximum time the ports stay closed after a first load has failed, while it is retried.
FIRST_LOAD_SECONDS = 10.0
# Applies instead if every model has a version that answers.
REPLACED_SECONDS = 1.0

Labels = Mapping[str, Mapping[str, int]]


class ServerCore:
    """Finds the version for a ModelSpec, and applies configurations."""

    def __init__(
        self,
        manager: Manager,
        source: Source,
        *,
        allow_labels_for_unavailable: bool = False,
        on_config: Callable[[], None] = lambda: None,
    ) -> None:
        """Start without models.

        Args:
            manager: holds the versions.
            source: finds the versions that the manager should load.
            allow_labels_for_unavailable: whether a new label may be assigned to a version that is
                not available.
            on_config: called whenever a configuration has been applied.
        """
        self._manager = manager
        self._source = source
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._on_config = on_config
        self._models: tuple[ModelConfig, ...] = ()
        self._labels: Labels = {}
        # Held by one reload at a time, but not while its new models load.
        self._reloading = threading.Lock()

    @property
    def model_names(self) -> list[str]:
        """The names of the configured models."""
        return [model.name for model in self._models]

    def start(self, config: Any, stopped: Callable[[], bool]) -> None:
        """Apply the first configuration, and return when its models answer.

        If a base path is empty or missing, wait for its first version. Wait no longer than
        `FIRST_LOAD_SECONDS` for loads that fail.

        Args:
            config: a `ModelServerConfig`.
            stopped: returns whether to stop waiting.

        Raises:
            ServingError: the configuration is wrong, or a model cannot be loaded.
        """
        models = model_configs(config)
        self._labels = self._checked_labels(models)
        check_platforms(config)
        self._models = tuple(models)
        self._source.update(models)
        self._on_config()
        self._source.start()
        timed_out = _FirstLoads(self._manager, self.model_names).timed_out
        settled = self._manager.wait_settled(
            self.model_names, until=lambda: stopped() or timed_out()
        )
        self._manager.end_initial_loads()
        _check_available(settled)

    def reload(
        self,
        config: Any,
        root: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Apply another configuration; return when its new models answer or the call is cancelled.

        A wrong configuration leaves the old one in force.

        Args:
            config: a `ModelServerConfig`.
            root: the directory below which base paths must be; None: anywhere.
            cancelled: returns whether the caller no longer waits.

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
                # A model without a name can be configured but not called.
                if model.name:
                    _check_has_versions(model)
            self._labels, self._models = labels, tuple(models)
            self._source.update(models)
            self._on_config()
        names = [model.name for model in new if model.name]
        # Another reload may remove a model while it loads.
        settled = self._manager.wait_settled(
            names, until=lambda: cancelled() or not set(names) <= set(self.model_names)
        )
        if not cancelled():
            _check_available(settled)

    @contextmanager
    def servable_handle(self, model_spec: Any) -> Iterator[Servable]:
        """Hold the version that a ModelSpec names; it is not unloaded while it is held.

        Raises:
            ServingError: the spec is incomplete, or names a version that is not available.
        """
        if not model_spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        version = self._version(model_spec)
        with self._manager.servable_handle(model_spec.name, version) as servable:
            yield servable

    def status(self, model_spec: Any) -> list[ServableHarness]:
        """Return the versions of a model, newest first, or the one that a ModelSpec names.

        As in TensorFlow Serving, a label is ignored.

        Raises:
            ServingError: NOT_FOUND, there is no such model or version.
        """
        harnesses = self._manager.harnesses(model_spec.name)
        if not model_spec.HasField("version"):
            if not harnesses:
                raise not_found(f"Could not find any versions of model {model_spec.name}")
            return harnesses
        version = model_spec.version.value
        found = [harness for harness in harnesses if harness.version == version]
        if not found:
            raise not_found(f"Could not find version {version} of model {model_spec.name}")
        return found

    def is_available(self, name: str) -> bool:
        """Return whether a model is configured and has a version that answers requests."""
        return name in self.model_names and self._manager.is_available(name)

    def _version(self, model_spec: Any) -> int | None:
        """Return the version that a ModelSpec's number or label names; None is the latest."""
        choice = model_spec.WhichOneof("version_choice")
        if choice == "version":
            version: int = model_spec.version.value
            return version
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
            for label, version in model.version_labels.items():
                moved = old.get(label, version) != version
                free = self._allow_labels_for_unavailable and not moved
                if not free and not self._manager.is_available(model.name, version):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
        return {model.name: model.version_labels for model in models}


class _FirstLoads:
    """Decides how long to wait for first loads that fail.

    TensorFlow Serving waits until any version of a model has loaded or failed. This server waits
    for the newest, but only briefly if another version answers.
    """

    def __init__(self, manager: Manager, names: Sequence[str]) -> None:
        self._manager = manager
        self._names = names
        self._failed_at: float | None = None

    def timed_out(self) -> bool:
        harnesses = [each for name in self._names for each in self._manager.harnesses(name)]
        if all(harness.last_error is None for harness in harnesses):
            self._failed_at = None
            return False
        if self._failed_at is None:
            self._failed_at = time.monotonic()
        all_answer = all(self._manager.is_available(name) for name in self._names)
        seconds = REPLACED_SECONDS if all_answer else FIRST_LOAD_SECONDS
        return time.monotonic() - self._failed_at > seconds


def _check_has_versions(model: ModelConfig) -> None:
    try:
        if aspired_versions(model):
            return
        problem = "no version to serve was found there"
    except OSError as error:
        problem = str(error.strerror)
    raise failed_precondition(
        f"Model {model.name} cannot be served from base path {model.base_path}: {problem}"
    )


def _check_available(settled: Sequence[ServableHarness]) -> None:
    failed = [harness for harness in settled if harness.error is not None]
    if failed:
        reasons = "".join(
            f"{{{harness} due to error: {harness.error.code.name}: {harness.error.message}}}, "
            for harness in failed
            if harness.error is not None
        )
        raise ServingError.from_number(
            2, f"{len(failed)} model(s) did not become available: {{{reasons}}}"
        )
