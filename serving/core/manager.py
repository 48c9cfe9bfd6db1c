"""The manager: brings the versions that are served in line with those that are aspired to.

A version goes START → LOADING → AVAILABLE → UNLOADING → END, or to END with an error. A new version
is loaded before an old one is dropped, and a version is dropped only when the requests that began
on it have ended. See tensorflow_serving/core/aspired_versions_manager.h and
availability_preserving_policy.h.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.batching.session import Session
from serving.core.servable_harness import Model, State, Version
from serving.errors import ServingError, not_found

log = logging.getLogger(__name__)

# Until the first versions of all models are there, so that one that takes long holds up no other.
INITIAL_LOAD_THREADS = 4 * (os.cpu_count() or 1)

Load = Callable[[str, int, Path], Session]


@dataclass(frozen=True)
class ManagerOptions:
    """How versions are loaded and unloaded.

    Attributes:
        max_num_load_retries: how often a load that failed is tried again.
        load_retry_interval: seconds between two attempts.
        num_load_threads: how many versions may be loading at once.
        num_unload_threads: how many may be unloading at once.
    """

    max_num_load_retries: int = 5
    load_retry_interval: float = 60.0
    num_load_threads: int = 1
    num_unload_threads: int = 1


class Manager:
    """Loads, serves and unloads versions; may be used from any thread."""

    def __init__(
        self,
        load: Load,
        options: ManagerOptions | None = None,
        on_change: Callable[[Version], None] = lambda version: None,
    ) -> None:
        """Manage what `aspire` will ask for.

        Args:
            load: loads a version, given the model's name, its number and its directory.
            options: how to.
            on_change: called whenever a version has changed its state.
        """
        options = options or ManagerOptions()
        self._options = options
        self._load_version = load
        self._on_change = on_change
        self._models: dict[str, Model] = {}
        # Guards the models and all that is in them; notified of each change.
        self._changed = threading.Condition()
        self._loads = ThreadPoolExecutor(INITIAL_LOAD_THREADS, "load")
        self._unloads = ThreadPoolExecutor(options.num_unload_threads, "unload")
        self._retries: set[threading.Timer] = set()
        self._closing = False

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Ask for these versions of a model, and for no others."""
        with self._changed:
            if self._closing:
                return
            model = self._models.setdefault(name, Model())
            for version in model.versions.values():
                wanted = version.number in versions
                lives = version.state is not State.END
                version.asked_back = (
                    wanted and lives and (version.asked_back or not version.aspired)
                )
                version.aspired = wanted
            # The original puts off what asks for a version back that has not ended yet. What was
            # wanted before is not forgotten by it.
            if not any(version.asked_back for version in model.versions.values()):
                for version in model.versions.values():
                    version.forgotten |= not version.aspired
            # The newest is the one that people wait for.
            for number in sorted(versions, reverse=True):
                known = model.versions.get(number)
                # A version that was unloaded may come back; one that failed only if it was away.
                if known is None or (
                    known.state is State.END and (known.error is None or known.forgotten)
                ):
                    self._begin_load(model, Version(name, number, versions[number]))
                elif known.state is State.UNLOADING:
                    known.path = versions[number]  # from where it will be loaded again
            self._unload_surplus(model)

    def end_initial_loads(self) -> None:
        """From now on load no more versions at once than the options say."""
        with self._changed:
            self._loads.shutdown(wait=False)
            self._loads = ThreadPoolExecutor(self._options.num_load_threads, "load")

    def wait_settled(
        self, names: Collection[str], until: Callable[[], bool] = lambda: False
    ) -> list[Version]:
        """Wait until of each model the newest version is AVAILABLE or has failed; return these.

        Args:
            names: of the models.
            until: asked now and then; the wait ends early when it says so, and only the versions
                known by then are returned.
        """
        with self._changed:
            while True:
                models = [self._models[name] for name in names if name in self._models]
                settled = [v for model in models if (v := model.settled()) is not None]
                if len(settled) == len(names) or until() or self._closing:
                    return settled
                self._changed.wait(0.1)

    @contextmanager
    def use(self, name: str, number: int | None) -> Iterator[Version]:
        """Hold a version that is available; while held it is not unloaded.

        Args:
            name: the model's.
            number: the version's; None for the latest.

        Raises:
            ServingError: NOT_FOUND, it is not available.
        """
        with self._changed:
            version = self._find(name, number)
            version.requests += 1
        try:
            yield version
        finally:
            with self._changed:
                version.requests -= 1
                if version.state is State.UNLOADING:
                    self._unload_if_idle(version)

    def versions(self, name: str) -> list[Version]:
        """Return all versions that a model has had, newest first."""
        with self._changed:
            model = self._models.get(name)
            known = model.versions if model else {}
            return [known[number] for number in sorted(known, reverse=True)]

    def is_available(self, name: str, number: int | None = None) -> bool:
        """Tell whether a version, or any one, of a model answers requests."""
        with self._changed:
            model = self._models.get(name)
            available = model.available() if model else []
            return any(number in (None, version.number) for version in available)

    def close(self, timeout: float) -> None:
        """Unload everything; loads under way are not waited for.

        Args:
            timeout: seconds to wait for versions that still have requests.
        """
        with self._changed:
            self._closing = True
            for timer in self._retries:
                timer.cancel()
            versions = [v for model in self._models.values() for v in model.available()]
            for version in versions:
                self._begin_unload(version)
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(v.state is State.END for v in versions), timeout)
        self._loads.shutdown(wait=False, cancel_futures=True)

    def _find(self, name: str, number: int | None) -> Version:
        model = self._models.get(name)
        if number is None:
            available = model.available() if model else []
            if not available:
                raise not_found(f"Servable not found for request: Latest({name})")
            return available[-1]
        version = model.versions.get(number) if model else None
        if version is None or version.state is not State.AVAILABLE:
            raise not_found(f"Servable not found for request: Specific({name}, {number})")
        return version

    def _begin_load(self, model: Model, version: Version) -> None:
        model.versions[version.number] = version
        self._announce(version, State.START)
        self._loads.submit(self._load, model, version)

    def _load(self, model: Model, version: Version) -> None:
        with self._changed:
            if self._closing:
                return
            if not version.aspired:
                version.error = version.last_error
                self._set_state(version, State.END)
                return
            version.attempts += 1
            self._set_state(version, State.LOADING)
        session, error = self._try_to_load(version)
        with self._changed:
            if session is not None:
                version.session, version.error = session, None
                self._set_state(version, State.AVAILABLE)
                if self._closing:
                    self._begin_unload(version)
            elif self._closing:
                return
            else:
                version.last_error = error
                if version.aspired and version.attempts <= self._options.max_num_load_retries:
                    self._retry_later(model, version)
                else:
                    version.error = error
                    self._set_state(version, State.END)
            self._unload_surplus(model)

    def _try_to_load(self, version: Version) -> tuple[Session | None, ServingError | None]:
        started = time.perf_counter()
        try:
            session = self._load_version(version.model, version.number, version.path)
        except ServingError as caught:
            error = caught
        except Exception as caught:  # whatever one version does, the others are to be served
            error = ServingError(grpc.StatusCode.UNKNOWN, f"cannot load {version.path}: {caught}")
        else:
            log.info(
                "Successfully loaded servable version %s in %.2f s",
                version,
                time.perf_counter() - started,
            )
            return session, None
        log.error(
            "Loading servable version %s failed, attempt %d of %d: %s: %s",
            version,
            version.attempts,
            self._options.max_num_load_retries + 1,
            error.code.name,
            error.message,
        )
        return None, error

    def _retry_later(self, model: Model, version: Version) -> None:
        def retry() -> None:
            with self._changed:
                self._retries.discard(timer)
                if not self._closing:
                    self._loads.submit(self._load, model, version)

        timer = threading.Timer(max(0.0, self._options.load_retry_interval), retry)
        timer.daemon = True
        self._retries.add(timer)
        timer.start()

    def _unload_surplus(self, model: Model) -> None:
        """Drop what is not aspired to, but for one if nothing that is could answer in its place."""
        available = model.available()
        surplus = [version for version in available if not version.aspired]
        if len(surplus) == len(available) and any(v.aspired for v in model.versions.values()):
            surplus = surplus[:-1]
        for version in surplus:
            self._begin_unload(version)

    def _begin_unload(self, version: Version) -> None:
        self._set_state(version, State.UNLOADING)
        self._unload_if_idle(version)

    def _unload_if_idle(self, version: Version) -> None:
        session = version.session
        if version.requests == 0 and session is not None:
            version.session = None
            self._unloads.submit(self._unload, version, session)

    def _unload(self, version: Version, session: Session) -> None:
        try:
            session.close()
        except Exception:
            log.exception("unloading servable version %s failed", version)
        with self._changed:
            self._set_state(version, State.END)
            if version.aspired and not self._closing:  # it was asked for again while it went
                again = Version(version.model, version.number, version.path)
                self._begin_load(self._models[version.model], again)
        log.info("Done unloading servable version %s", version)

    def _set_state(self, version: Version, state: State) -> None:
        if version.state is not state:
            version.state = state
            self._announce(version, state)

    def _announce(self, version: Version, state: State) -> None:
        log.debug("servable version %s: %s", version, state.name)
        self._changed.notify_all()
        self._on_change(version)
