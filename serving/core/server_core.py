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

import grpc

from serving.core.manager import Manager
from serving.core.model_config import ModelConfig, check_platforms, parse_model_configs
from serving.core.servable_harness import ServableHarness
from serving.core.source import Source, aspired_versions
from serving.errors import ServingError, failed_precondition, invalid_argument, not_found
from serving.servables.servable import Servable

# Maximum time that the ports stay closed while a failed first load is retried.
MAX_RETRY_WAIT_SECONDS = 10.0
# The same if every model has an available version.
MAX_RETRY_WAIT_SECONDS_IF_AVAILABLE = 1.0

Labels = Mapping[str, Mapping[str, int]]


class ServerCore:
    """Applies configurations and resolves a ModelSpec to a version."""

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
        # Held during a reload, but not while its new models load.
        self._reloading = threading.Lock()

    @property
    def model_names(self) -> list[str]:
        """The names of the configured models."""
        return [model.name for model in self._models]

    def start(self, config: Any, stopped: Callable[[], bool]) -> None:
        """Apply the first configuration and wait until its models are available.

        If a base path is empty or missing, wait for its first version. Wait at most
        `MAX_RETRY_WAIT_SECONDS` for retries of failed loads.

        Args:
            config: a `ModelServerConfig`.
            stopped: returns whether to stop waiting.

        Raises:
            ServingError: the configuration is invalid, or a model cannot be loaded.
        """
        models = parse_model_configs(config)
        self._labels = self._check_labels(models)
        check_platforms(config)
        self._models = tuple(models)
        self._source.update(models)
        self._on_config()
        self._source.start()
        timeout = _RetryTimeout(self._manager, self.model_names)
        settled = self._manager.wait_until_settled(
            self.model_names, until=lambda: stopped() or timeout.has_expired()
        )
        self._manager.limit_loads()
        _check_available(settled)

    def reload(
        self,
        config: Any,
        root: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Apply another configuration and wait until its new models are available.

        An invalid configuration leaves the old one in force.

        Args:
            config: a `ModelServerConfig`.
            root: the directory that must contain the base paths; None: anywhere.
            cancelled: returns whether to stop waiting.

        Raises:
            ServingError: the configuration is invalid, or a new model cannot be loaded.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        with self._reloading:
            models = parse_model_configs(config, root, self.model_names)
            labels = self._check_labels(models)
            check_platforms(config)
            current_names = set(self.model_names)
            new = [model for model in models if model.name not in current_names]
            for model in new:
                # A model without a name can be configured but not called.
                if model.name:
                    _check_has_versions(model)
            self._labels, self._models = labels, tuple(models)
            self._source.update(models)
            self._on_config()
        names = [model.name for model in new if model.name]
        # Another reload may remove a model while it loads.
        settled = self._manager.wait_until_settled(
            names, until=lambda: cancelled() or not set(names) <= set(self.model_names)
        )
        if not cancelled():
            _check_available(settled)

    @contextmanager
    def servable_handle(self, model_spec: Any) -> Iterator[Servable]:
        """Yield the version that a ModelSpec selects, which is not unloaded while in use.

        Raises:
            ServingError: the spec is incomplete or selects a version that is not available.
        """
        if not model_spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        version = self._resolve_version(model_spec)
        with self._manager.servable_handle(model_spec.name, version) as servable:
            yield servable

    def status(self, model_spec: Any) -> list[ServableHarness]:
        """Return the versions of a model, newest first, or only the one that a ModelSpec selects.

        As in TensorFlow Serving, labels are ignored.

        Raises:
            ServingError: NOT_FOUND, there is no such model or version.
        """
        harnesses = self._manager.harnesses(model_spec.name)
        if not model_spec.HasField("version"):
            if not harnesses:
                raise not_found(f"Could not find any versions of model {model_spec.name}")
            return harnesses
        version = model_spec.version.value
        matches = [harness for harness in harnesses if harness.version == version]
        if not matches:
            raise not_found(f"Could not find version {version} of model {model_spec.name}")
        return matches

    def is_available(self, name: str) -> bool:
        """Return whether a model is configured and has an available version."""
        return name in self.model_names and self._manager.is_available(name)

    def _resolve_version(self, model_spec: Any) -> int | None:
        """Return the version that a ModelSpec selects by number or label; None: the latest."""
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

    def _check_labels(self, models: Sequence[ModelConfig]) -> Labels:
        for model in models:
            old = self._labels.get(model.name, {})
            for label, version in model.version_labels.items():
                is_moved = old.get(label, version) != version
                may_be_unavailable = self._allow_labels_for_unavailable and not is_moved
                if not may_be_unavailable and not self._manager.is_available(model.name, version):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
        return {model.name: model.version_labels for model in models}


class _RetryTimeout:
    """Limits how long the start waits for retries of failed loads.

    TensorFlow Serving waits until any version of a model has loaded or failed. This server waits
    for the first attempt to load the newest, and for its retries only briefly if another version is
    available.
    """

    def __init__(self, manager: Manager, names: Sequence[str]) -> None:
        self._manager = manager
        self._names = names
        self._failed_at: float | None = None

    def has_expired(self) -> bool:
        newest = [self._manager.newest_aspired(name) for name in self._names]
        if all(harness is None or harness.last_error is None for harness in newest):
            self._failed_at = None
            return False
        if self._failed_at is None:
            self._failed_at = time.monotonic()
        if any(harness is None or harness.is_in_first_load() for harness in newest):
            return False
        all_available = all(self._manager.is_available(name) for name in self._names)
        seconds = MAX_RETRY_WAIT_SECONDS_IF_AVAILABLE if all_available else MAX_RETRY_WAIT_SECONDS
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
        raise ServingError(
            grpc.StatusCode.UNKNOWN,
            f"{len(failed)} model(s) did not become available: {{{reasons}}}",
        )
