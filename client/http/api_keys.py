"""API keys: who may ask.

A file holds a line for each key, a name and the SHA-256 of the key. Keys are random and long, so
nothing is gained by a slow hash. The file is read again when it changes: a key is rotated by adding
its successor, and removing it when nobody uses it any more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from client.errors import ClientError

log = logging.getLogger(__name__)

PREFIX = "lrs_"
KEY_BYTES = 32
LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<hash>[0-9a-f]{64})")
CHECK_SECONDS = 1.0


class KeysFileError(ValueError):
    """The file of keys cannot be used; the message says where and why."""


def new_key() -> str:
    """Return a key that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hashed(key: str) -> str:
    """Return what the file holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """The keys of a file, as it is now."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            KeysFileError: it cannot be read, or a line is wrong.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._names = _read(path)
        self._checked_at = time.monotonic()

    def caller(self, headers: Mapping[str, str]) -> str:
        """Return the name of the key that a request brings.

        Args:
            headers: value by name in lower case.

        Raises:
            ClientError: 401, it brings none, or one that is not known.
        """
        self._refresh()
        key = _sent(headers)
        if key is None:
            raise ClientError(
                "an API key is needed; expected Authorization: Bearer KEY, or X-API-Key: KEY", 401
            )
        # To look up a hash tells nothing of the keys by the time that it takes.
        name = self._names.get(hashed(key))
        if name is None:
            raise ClientError("the API key is not known", 401)
        return name

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._names = _read(self._path)
                self._stamp = stamp
                log.info("%d API keys read from %s", len(self._names), self._path)
        except KeysFileError as error:
            # Whoever is at work on the file must not lock everybody out, nor let anybody in.
            log.error("the API keys stay as they were: %s", error)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise KeysFileError(f"API keys, {path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> dict[str, str]:
    """Return the name of each key by its hash."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysFileError(f"API keys, {path}: {error}") from error
    names = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise KeysFileError(
                f"API keys, {path} line {number}: "
                "expected a name and the SHA-256 of a key in hexadecimal"
            )
        names[match["hash"]] = match["name"]
    return names


def _sent(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request; browsers send it as the password of a Basic login."""
    if "x-api-key" in headers:
        return headers["x-api-key"].strip()
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            login = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        return login.partition(":")[2]
    return None
