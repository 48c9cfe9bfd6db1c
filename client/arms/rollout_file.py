"""Rollout files, through which the rollout controller directs the gateway; see docs/rollout.md."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".json"
READ_SECONDS = 0.5

T = TypeVar("T")
# Changes with a file's content, since files are replaced by renaming.
_Stamp = tuple[int, int, int]


class RolloutFileError(ValueError):
    """A rollout file is invalid."""


@dataclass(frozen=True)
class Rollout:
    """The state of one model's rollout.

    Attributes:
        model: the model's name.
        generation: number of this state; each change increases it.
        stable: the version that answers all requests but the canary's.
        canary: the version on trial, None if there is none.
        percent: percentage of the requests that the canary answers, 0 to 100.
        shadow: the version that gets copies of the requests, None if there is none.
        salt: hashed with a request's sticky key; the hash decides whether the canary answers it.
        document: the parsed file.
    """

    model: str
    generation: int
    stable: int
    canary: int | None
    percent: float
    shadow: int | None
    salt: str
    document: Mapping[str, Any] = field(repr=False, compare=False)


def parse(content: bytes, model: str) -> Rollout:
    """Parse the rollout file of a model.

    Raises:
        RolloutFileError: the file is invalid; the message names the field and the expected value.
    """
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RolloutFileError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RolloutFileError("expected a JSON object")
    if document.get("format") != FORMAT:
        raise RolloutFileError(
            f"format: expected {FORMAT}, got {document.get('format')!r}; "
            "a newer rollout controller wrote it, or the file is not a rollout file"
        )
    if document.get("model") != model:
        raise RolloutFileError(f'model: expected "{model}", got {document.get("model")!r}')
    percent = document.get("percent")
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise RolloutFileError(f"percent: expected a number from 0 to 100, got {percent!r}")
    rollout = Rollout(
        model,
        _whole_number(document, "generation"),
        _whole_number(document, "stable"),
        None if document.get("canary") is None else _whole_number(document, "canary"),
        float(percent),
        None if document.get("shadow") is None else _whole_number(document, "shadow"),
        str(document.get("salt", "")),
        document,
    )
    for name in ("canary", "shadow"):
        if document.get(name) == rollout.stable:
            raise RolloutFileError(
                f"{name}: expected a version other than the stable one, got {rollout.stable}"
            )
    return rollout


def _whole_number(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if type(value) is not int or value < 0:
        raise RolloutFileError(f"{name}: expected a whole number, got {value!r}")
    return value


class RolloutFiles:
    """The rollout files of a directory, one per model.

    A file that is invalid, unreadable or gone leaves its model's last state in effect: a volume
    that is unmounted for a moment must not move traffic.
    """

    def __init__(
        self,
        directory: Path,
        on_change: Callable[[Rollout], None],
        set_unreadable: Callable[[str, bool], None],
    ) -> None:
        """Initialize without reading any file.

        Args:
            directory: the directory, with a file `MODEL.json` for each model.
            on_change: called with each new state.
            set_unreadable: called with a model, and whether its file is unreadable or invalid.
        """
        self._directory = directory
        self._on_change = on_change
        self._set_unreadable = set_unreadable
        self._stamps: dict[str, _Stamp | None] = {}
        self._last_error = ""

    def read(self) -> None:
        """Read the files that have changed."""
        self._apply(self._scan())

    async def watch(self) -> None:
        """Read changed files until cancelled."""
        while True:
            await asyncio.sleep(READ_SECONDS)
            # The directory may be a slow network volume.
            self._apply(await asyncio.to_thread(self._scan))

    def _scan(self) -> list[tuple[str, _Stamp | None, Rollout | str]]:
        """Return each changed model with its new state, or with the error of its file."""
        stamps: dict[str, _Stamp | None] = dict.fromkeys(self._stamps)
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                        stat = entry.stat()
                        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                        stamps[entry.name.removesuffix(SUFFIX)] = stamp
            self._last_error = ""
        except OSError as error:
            if str(error) != self._last_error:
                log.warning("rollout: %s", error)
            self._last_error = str(error)
        return [
            (model, stamp, self._read(model))
            for model, stamp in stamps.items()
            if model not in self._stamps or self._stamps[model] != stamp
        ]

    def _read(self, model: str) -> Rollout | str:
        path = self._directory / f"{model}{SUFFIX}"
        try:
            return parse(path.read_bytes(), model)
        except OSError as error:
            return f"{path}: {error.strerror}"
        except RolloutFileError as error:
            return f"{path}: {error}"

    def _apply(self, changes: list[tuple[str, _Stamp | None, Rollout | str]]) -> None:
        for model, stamp, state in changes:
            self._stamps[model] = stamp
            if isinstance(state, Rollout):
                self._on_change(state)
            else:
                log.error("%s; keeping the last state", state)
            self._set_unreadable(model, not isinstance(state, Rollout))
