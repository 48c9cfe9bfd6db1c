"""The directory of rollout files: one writer at a time, and atomic replacement of files.

A change is written in this order: rollout file, history, model config file. The last two follow
from the first, so a controller that starts after another was killed completes them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rollout.errors import RolloutError, StateError
from rollout.model_config import model_config
from rollout.state import Rollout, parse

CONFIG = "models.config"
LOCK_SECONDS = 10.0
_LOCK_POLL_SECONDS = 0.02


class Store:
    """Reads and writes rollout files."""

    def __init__(self, directory: Path) -> None:
        """Use a directory, which need not exist yet."""
        self.directory = directory

    @property
    def config(self) -> Path:
        """The model config file for the model servers."""
        return self.directory / CONFIG

    def path(self, model: str) -> Path:
        """Return the rollout file of a model."""
        return self.directory / f"{model}.json"

    def history(self, model: str) -> Path:
        """Return the file of a model's states, one JSON object per line, oldest first."""
        return self.directory / f"{model}.history.ndjson"

    def evidence(self, model: str) -> Path:
        """Return the file of the current rollout's counts."""
        return self.directory / f"{model}.evidence"

    def read(self, model: str, now: datetime) -> Rollout | None:
        """Return the state of a model's rollout; None if there is no file.

        Raises:
            StateError: the file is unreadable, for another model, from a later release or from the
                future.
        """
        path = self.path(model)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {path}: {error.strerror}") from error
        return parse(text, model, now, path)

    @contextmanager
    def locked(self, now: datetime) -> Iterator[None]:
        """Exclude other writers, and complete a change that a killed writer left unfinished.

        Raises:
            StateError: the directory cannot be written or locked, or a rollout file cannot be read.
            RolloutError: another controller holds the lock.
        """
        with self._wrap_write_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / ".lock"
        with self._wrap_write_errors(path):
            lock = path.open("a")
        with lock:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _try_lock(lock.fileno(), path):
                if time.monotonic() > deadline:
                    raise RolloutError(f"another controller has held {path} for {LOCK_SECONDS:g} s")
                time.sleep(_LOCK_POLL_SECONDS)
            for state in self._states(now):
                self._complete_history(state)
            self._write_config(now)
            yield

    @contextmanager
    def watching(self, model: str) -> Iterator[None]:
        """Prevent a second `watch` of a model.

        Raises:
            StateError: the directory cannot be written or locked.
            RolloutError: another process watches the model.
        """
        path = self.directory / f"{model}.watch.lock"
        with self._wrap_write_errors(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        with lock:
            if not _try_lock(lock.fileno(), path):
                lock.seek(0)
                other = lock.read().strip() or "another process"
                raise RolloutError(
                    f"{other} already watches {model} ({path} is locked); stop it first"
                )
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def write(self, state: Rollout) -> None:
        """Replace a model's rollout file and the files derived from it; the lock must be held.

        Raises:
            StateError: a file cannot be written.
        """
        text = json.dumps(state.as_json(), indent=1, ensure_ascii=False)
        self._replace(self.path(state.model), text + "\n")
        self._complete_history(state)
        self._write_config(state.time)

    def write_evidence(self, model: str, text: str) -> None:
        """Replace the evidence of a model's rollout; the lock must be held."""
        self._replace(self.evidence(model), text)

    def _states(self, now: datetime) -> Iterator[Rollout]:
        for path in sorted(self.directory.glob("*.json")):
            if (state := self.read(path.stem, now)) is not None:
                yield state

    def _write_config(self, now: datetime) -> None:
        states = list(self._states(now))
        if not states:
            return
        text = model_config(states)
        try:
            current = self.config.read_bytes()
        except OSError:
            current = b""
        if text.encode() != current:
            self._replace(self.config, text)

    def _complete_history(self, state: Rollout) -> None:
        """Append the current state unless it is the last line."""
        path = self.history(state.model)
        line = json.dumps(state.as_json(), ensure_ascii=False).encode() + b"\n"
        with self._wrap_write_errors(path), path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - len(line) - 1))
            tail = file.read()
            if (b"\n" + tail).endswith(b"\n" + line):
                return
            # A crash may have left an incomplete line; readers skip it.
            separator = b"" if not tail or tail.endswith(b"\n") else b"\n"
            file.write(separator + line)
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.new")
        with self._wrap_write_errors(path):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextmanager
    def _wrap_write_errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StateError(
                f"cannot write {path}: {error.strerror} (--state names the directory)"
            ) from error


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StateError(
            f"cannot lock {path}: {error.strerror} (--state names the directory)"
        ) from error
    return True
