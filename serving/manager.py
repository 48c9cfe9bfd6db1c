"""The manager: brings the versions that are served in line with those that are aspired to.

A version goes START → LOADING → AVAILABLE → UNLOADING → END, or to END with an error. A new version
is loaded before an old one is dropped, and a version is dropped only when the requests that began
on it have ended. All state is touched from the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from serving.errors import ServingError, invalid_argument, not_found
from serving.model_config import ModelConfig
from serving.servable import Servable
from serving.source import aspired_versions

log = logging.getLogger(__name__)
_STATE = get_model_status_pb2.ModelVersionStatus.State


class State(IntEnum):
    """A version's states, numbered as in `GetModelStatus`."""

    START = _STATE.Value("START")
    LOADING = _STATE.Value("LOADING")
    AVAILABLE = _STATE.Value("AVAILABLE")
    UNLOADING = _STATE.Value("UNLOADING")
    END = _STATE.Value("END")


@dataclass
class Version:
    """One version of a model, from the moment it is aspired to.

    Attributes:
        number: the version's number.
        path: its directory.
        aspired: whether the base path and policy ask for it.
        state: where it is in its life.
        error: why it could not be loaded.
        servable: what answers requests, while it is AVAILABLE or UNLOADING.
        requests: how many requests are under way on it.
    """

    number: int
    path: Path
    aspired: bool = True
    state: State = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    requests: int = 0


@dataclass
class Model:
    """A configured model and every version that it has had, by number."""

    config: ModelConfig
    versions: dict[int, Version]

    def available(self) -> list[Version]:
        """Return the versions that answer requests, oldest first."""
        found = (v for v in self.versions.values() if v.state is State.AVAILABLE)
        return sorted(found, key=lambda version: version.number)


class Manager:
    """Loads, serves and unloads the versions of the configured models."""

    def __init__(
        self, models: list[ModelConfig], on_change: Callable[[], None] = lambda: None
    ) -> None:
        """Manage these models.

        Args:
            models: what to serve.
            on_change: called on the event loop whenever a version has changed its state.
        """
        self.models = {config.name: Model(config, {}) for config in models}
        self._on_change = on_change
        # Loads come one after another, so that they do not compete with requests for the cores.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._unloads: set[asyncio.Task[None]] = set()

    async def watch(self, poll_wait_seconds: float) -> None:
        """Poll the base paths for ever, or once if the wait is 0."""
        while True:
            try:
                await self.poll()
            except Exception:  # whatever one version did, the next ones are to be seen
                log.exception("looking for versions failed")
            if poll_wait_seconds == 0:
                return
            await asyncio.sleep(poll_wait_seconds)

    async def poll(self) -> None:
        """Look at every base path once and bring the versions in line with it."""
        for model in list(self.models.values()):
            try:
                aspired = await asyncio.to_thread(aspired_versions, model.config)
            except OSError as error:
                log.warning("model %s: cannot list its versions: %s", model.config.name, error)
                continue
            if not aspired:
                log.warning(
                    "model %s: no versions found under base path %s",
                    model.config.name,
                    model.config.base_path,
                )
            self._aspire(model, aspired)
            await self._load_new(model)
            self._unload_surplus(model)

    def all_available(self) -> bool:
        """Tell whether there are models and each has a version that answers requests."""
        return bool(self.models) and all(m.available() for m in self.models.values())

    @contextmanager
    def version(self, model_spec: Any) -> Iterator[Version]:
        """Hold the version that a ModelSpec asks for; while held it is not unloaded.

        Raises:
            ServingError: the spec is incomplete, or asks for what is not available.
        """
        version = self._find(model_spec)
        version.requests += 1
        try:
            yield version
        finally:
            version.requests -= 1

    def status(self, model_spec: Any) -> list[Version]:
        """Return the versions of a model, newest first, or the one a ModelSpec names.

        As in TensorFlow Serving a label is not looked at.

        Raises:
            ServingError: NOT_FOUND, there is no such model or version.
        """
        model = self.models.get(model_spec.name)
        if model is None or not model.versions:
            raise not_found(f"Could not find any versions of model {model_spec.name}")
        if model_spec.HasField("version"):
            number = model_spec.version.value
            if number not in model.versions:
                raise not_found(f"Could not find version {number} of model {model_spec.name}")
            return [model.versions[number]]
        return [model.versions[number] for number in sorted(model.versions, reverse=True)]

    async def close(self) -> None:
        """Unload everything."""
        for model in self.models.values():
            for version in model.available():
                self._begin_unload(model, version)
        await asyncio.gather(*self._unloads)
        self._loader.shutdown(wait=False, cancel_futures=True)  # a load that hangs must not hold up

    def _find(self, model_spec: Any) -> Version:
        name = model_spec.name
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        model = self.models.get(name)
        number = self._number(model, model_spec)
        available = model.available() if model else []
        if number is None:
            if available:
                return available[-1]
            raise not_found(f"Servable not found for request: Latest({name})")
        for version in available:
            if version.number == number:
                return version
        raise not_found(f"Servable not found for request: Specific({name}, {number})")

    def _number(self, model: Model | None, model_spec: Any) -> int | None:
        """Return the version that is asked for by number or label; None is the latest."""
        choice = model_spec.WhichOneof("version_choice")
        if choice == "version":
            number: int = model_spec.version.value
            return number
        if choice == "version_label":
            labels: Mapping[str, int] = model.config.version_labels if model else {}
            if model_spec.version_label not in labels:
                raise invalid_argument(
                    f"Unrecognized servable version label: {model_spec.version_label}"
                )
            return labels[model_spec.version_label]
        return None

    def _aspire(self, model: Model, aspired: Mapping[int, Path]) -> None:
        for version in model.versions.values():
            version.aspired = version.number in aspired
        for number, path in aspired.items():
            known = model.versions.get(number)
            # A version that was unloaded may come back; one that failed needs a new number.
            if known is None or (known.state is State.END and known.error is None):
                model.versions[number] = Version(number, path)
                self._on_change()

    async def _load_new(self, model: Model) -> None:
        new = (v for v in model.versions.values() if v.state is State.START)
        for version in sorted(new, key=lambda version: version.number, reverse=True):
            self._set_state(model, version, State.LOADING)
            loop = asyncio.get_running_loop()
            try:
                version.servable = await loop.run_in_executor(
                    self._loader, Servable.load, version.path
                )
            except Exception as error:
                if not isinstance(error, ServingError):
                    error = ServingError(grpc.StatusCode.UNKNOWN, f"cannot load it: {error}")
                version.error = error
                log.error(
                    "model %s version %d: %s", model.config.name, version.number, error.message
                )
                self._set_state(model, version, State.END)
            else:
                self._set_state(model, version, State.AVAILABLE)

    def _unload_surplus(self, model: Model) -> None:
        """Drop what is not aspired to, unless nothing that is could answer in its place."""
        available = model.available()
        if any(v.aspired for v in model.versions.values()) and not any(
            v.aspired for v in available
        ):
            return
        for version in available:
            if not version.aspired:
                self._begin_unload(model, version)

    def _begin_unload(self, model: Model, version: Version) -> None:
        self._set_state(model, version, State.UNLOADING)
        task = asyncio.get_running_loop().create_task(self._unload(model, version))
        self._unloads.add(task)
        task.add_done_callback(self._unloads.discard)

    async def _unload(self, model: Model, version: Version) -> None:
        while version.requests:
            await asyncio.sleep(0.01)
        servable, version.servable = version.servable, None
        if servable is not None:
            await asyncio.to_thread(servable.close)
        self._set_state(model, version, State.END)

    def _set_state(self, model: Model, version: Version, state: State) -> None:
        version.state = state
        log.info("model %s version %d: %s", model.config.name, version.number, state.name)
        self._on_change()
