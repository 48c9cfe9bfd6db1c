"""The manager: loads aspired versions and unloads the others.

A version goes START → LOADING → AVAILABLE → UNLOADING → END, or to END with an error. A new version
is loaded before an old one is unloaded, and an old one is unloaded only when its requests have
ended. See tensorflow_serving/core/aspired_versions_manager.h and availability_preserving_policy.h.
"""

from __future__ import annotations

import functools
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

from serving.core.load_executor import LoadExecutor
from serving.core.servable_harness import ServableHarness, ServableStream, State
from serving.errors import ServingError, deadline_exceeded, not_found
from serving.servables.servable import Servable

log = logging.getLogger(__name__)

# Concurrent loads at startup, so that a slow model does not delay the others.
INITIAL_LOAD_THREADS = 4 * (os.cpu_count() or 1)

# Takes the model's name, the version's number and its directory.
Load = Callable[[str, int, Path], Servable]


@dataclass(frozen=True)
class ManagerOptions:
    """Limits and retries for loading and unloading versions.

    Attributes:
        max_num_load_retries: maximum retries of a failed load.
        load_retry_interval: seconds between two attempts.
        load_timeout: seconds that an attempt may take.
        num_load_threads: maximum number of concurrent loads.
        num_unload_threads: maximum number of concurrent unloads.
    """

    max_num_load_retries: int = 5
    load_retry_interval: float = 60.0
    load_timeout: float = 600.0
    num_load_threads: int = 1
    num_unload_threads: int = 1


class Manager:
    """Loads, serves and unloads versions; thread-safe."""

    def __init__(
        self,
        load: Load,
        options: ManagerOptions | None = None,
        on_change: Callable[[ServableHarness], None] = lambda harness: None,
    ) -> None:
        """Start without versions; see `aspire`.

        Args:
            load: loads a version.
            options: limits and retries; None: the defaults.
            on_change: called whenever a version has changed its state.
        """
        self._options = options or ManagerOptions()
        self._load = load
        self._on_change = on_change
        self._streams: dict[str, ServableStream] = {}
        # Guards the state and is notified of every change.
        self._changed = threading.Condition()
        self._loads = LoadExecutor(INITIAL_LOAD_THREADS, self._options.load_timeout)
        self._unloads = ThreadPoolExecutor(self._options.num_unload_threads, "unload")
        self._retries: set[threading.Timer] = set()
        self._closing = False

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Set the aspired versions of a model and their paths."""
        with self._changed:
            if self._closing:
                return
            stream = self._streams.setdefault(name, ServableStream())
            stream.set_aspired(set(versions))
            # Load the newest first: requests without a version go to it.
            for number in sorted(versions, reverse=True):
                harness = stream.harnesses.get(number)
                if harness is None or harness.may_load_again():
                    self._begin_load(stream, ServableHarness(name, number, versions[number]))
                elif harness.state is State.UNLOADING:
                    harness.path = versions[number]  # it will be loaded again from there
            self._unload_surplus(stream)

    def limit_loads(self) -> None:
        """Limit concurrent loads to the `num_load_threads` of the options from now on."""
        self._loads.set_limit(self._options.num_load_threads)

    def wait_until_settled(
        self, names: Collection[str], until: Callable[[], bool] = lambda: False
    ) -> list[ServableHarness]:
        """Wait until each model's newest version is AVAILABLE or has failed; return these versions.

        Args:
            names: names of the models.
            until: checked periodically; once it returns True, return the versions settled so far.
        """
        with self._changed:
            while True:
                streams = [self._streams[name] for name in names if name in self._streams]
                settled = [h for stream in streams if (h := stream.newest_settled()) is not None]
                if len(settled) == len(names) or until() or self._closing:
                    return settled
                self._changed.wait(0.1)

    @contextmanager
    def servable_handle(self, name: str, version: int | None) -> Iterator[Servable]:
        """Yield an available version, which is not unloaded while in use.

        Args:
            name: the model's name.
            version: the version's number; None: the latest.

        Raises:
            ServingError: NOT_FOUND, it is not available.
        """
        with self._changed:
            harness = self._find(name, version)
            servable = harness.servable
            assert servable is not None  # every available version has one
            harness.requests += 1
        try:
            yield servable
        finally:
            with self._changed:
                harness.requests -= 1
                if harness.state is State.UNLOADING:
                    self._unload_if_idle(harness)

    def harnesses(self, name: str) -> list[ServableHarness]:
        """Return all past and present versions of a model, newest first."""
        with self._changed:
            stream = self._streams.get(name)
            harnesses = stream.harnesses if stream else {}
            return [harnesses[number] for number in sorted(harnesses, reverse=True)]

    def newest_aspired(self, name: str) -> ServableHarness | None:
        """Return a model's newest aspired version, if there is one."""
        with self._changed:
            stream = self._streams.get(name)
            return stream.newest_aspired() if stream else None

    def is_available(self, name: str, version: int | None = None) -> bool:
        """Return whether a version of a model, or any of its versions, is available."""
        with self._changed:
            stream = self._streams.get(name)
            available = stream.available() if stream else []
            return any(version in (None, harness.version) for harness in available)

    def close(self, timeout: float) -> None:
        """Unload everything without waiting for loads.

        Args:
            timeout: seconds to wait for versions with requests in progress.
        """
        with self._changed:
            self._closing = True
            for timer in self._retries:
                timer.cancel()
            self._loads.cancel_pending()
            available = [h for stream in self._streams.values() for h in stream.available()]
            for harness in available:
                self._begin_unload(harness)
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(h.state is State.END for h in available), timeout)

    def _find(self, name: str, version: int | None) -> ServableHarness:
        stream = self._streams.get(name)
        if version is None:
            available = stream.available() if stream else []
            if not available:
                raise not_found(f"Servable not found for request: Latest({name})")
            return available[-1]
        harness = stream.harnesses.get(version) if stream else None
        if harness is None or harness.state is not State.AVAILABLE:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return harness

    def _begin_load(self, stream: ServableStream, harness: ServableHarness) -> None:
        stream.harnesses[harness.version] = harness
        self._announce(harness, State.START)
        self._submit_load(stream, harness)

    def _submit_load(self, stream: ServableStream, harness: ServableHarness) -> None:
        self._loads.submit(
            functools.partial(self._run_load, stream, harness),
            functools.partial(self._time_out, stream, harness),
        )

    def _run_load(self, stream: ServableStream, harness: ServableHarness) -> None:
        with self._changed:
            # The last attempt may have timed out while its retry was being scheduled.
            if self._closing or harness.state is State.END:
                return
            if not harness.aspired:
                self._end(harness, harness.last_error)
                return
            harness.attempts += 1
            self._set_state(harness, State.LOADING)
        servable, error = self._try_to_load(harness)
        with self._changed:
            if harness.state is not State.LOADING:  # it has timed out
                if servable is not None:
                    # Closing takes a while, and requests wait for the lock.
                    self._unloads.submit(_close, harness, servable)
                return
            if servable is not None:
                harness.servable, harness.error, harness.last_error = servable, None, None
                self._set_state(harness, State.AVAILABLE)
                if self._closing:
                    self._begin_unload(harness)
            elif self._closing:
                return
            else:
                harness.last_error = error
                if harness.aspired and harness.attempts <= self._options.max_num_load_retries:
                    self._retry_later(stream, harness)
                else:
                    self._end(harness, error)
            self._unload_surplus(stream)

    def _try_to_load(self, harness: ServableHarness) -> tuple[Servable | None, ServingError | None]:
        started = time.perf_counter()
        try:
            servable = self._load(harness.name, harness.version, harness.path)
        except ServingError as exc:
            # A new error, because the original's traceback keeps the graph in memory.
            error = ServingError(exc.code, exc.message)
        except Exception as exc:  # a failed version must not stop the others
            error = ServingError(grpc.StatusCode.UNKNOWN, f"cannot load {harness.path}: {exc}")
        else:
            log.info(
                "Successfully loaded servable version %s in %.2f s",
                harness,
                time.perf_counter() - started,
            )
            return servable, None
        log.error(
            "Loading servable version %s failed, attempt %d of %d: %s: %s",
            harness,
            harness.attempts,
            self._options.max_num_load_retries + 1,
            error.code.name,
            error.message,
        )
        return None, error

    def _time_out(self, stream: ServableStream, harness: ServableHarness) -> None:
        seconds = self._options.load_timeout
        error = deadline_exceeded(f"cannot load {harness.path}: no result within {seconds:g} s")
        log.error("Loading servable version %s timed out after %g s", harness, seconds)
        with self._changed:
            if harness.state is State.LOADING and not self._closing:
                harness.last_error = error
                self._end(harness, error)
                self._unload_surplus(stream)

    def _retry_later(self, stream: ServableStream, harness: ServableHarness) -> None:
        def retry() -> None:
            with self._changed:
                self._retries.discard(timer)
                if not self._closing:
                    self._submit_load(stream, harness)

        timer = threading.Timer(max(0.0, self._options.load_retry_interval), retry)
        timer.daemon = True
        self._retries.add(timer)
        timer.start()

    def _unload_surplus(self, stream: ServableStream) -> None:
        """Unload versions that are not aspired.

        If others are aspired but not yet available, keep the newest of those to unload.
        """
        available = stream.available()
        surplus = [harness for harness in available if not harness.aspired]
        has_replacement = len(surplus) < len(available)
        if not has_replacement and any(h.aspired for h in stream.harnesses.values()):
            surplus = surplus[:-1]
        for harness in surplus:
            self._begin_unload(harness)

    def _begin_unload(self, harness: ServableHarness) -> None:
        self._set_state(harness, State.UNLOADING)
        self._unload_if_idle(harness)

    def _unload_if_idle(self, harness: ServableHarness) -> None:
        servable = harness.servable
        if harness.requests == 0 and servable is not None:
            harness.servable = None
            self._unloads.submit(self._unload, harness, servable)

    def _unload(self, harness: ServableHarness, servable: Servable) -> None:
        _close(harness, servable)
        with self._changed:
            self._set_state(harness, State.END)
            if harness.aspired and not self._closing:  # it was re-aspired while unloading
                new_harness = ServableHarness(harness.name, harness.version, harness.path)
                self._begin_load(self._streams[harness.name], new_harness)
        log.info("Done unloading servable version %s", harness)

    def _end(self, harness: ServableHarness, error: ServingError | None) -> None:
        harness.error = error
        self._set_state(harness, State.END)

    def _set_state(self, harness: ServableHarness, state: State) -> None:
        if harness.state is not state:
            harness.state = state
            self._announce(harness, state)

    def _announce(self, harness: ServableHarness, state: State) -> None:
        log.debug("servable version %s: %s", harness, state.name)
        self._changed.notify_all()
        self._on_change(harness)


def _close(harness: ServableHarness, servable: Servable) -> None:
    try:
        servable.close()
    except Exception:
        log.exception("unloading servable version %s failed", harness)
