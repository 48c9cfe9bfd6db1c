"""API keys.

The file has one line per key: a name and the key's SHA-256. Keys are long and random, so a slow
hash would add nothing. The file is reloaded when it changes: to rotate a key, add its successor,
and remove the old one once it is unused.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from werkzeug.datastructures import Authorization

from client.errors import ClientError

log = logging.getLogger(__name__)

PREFIX = "lrs_"
KEY_BYTES = 32
LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<hash>[0-9a-f]{64})")
CHECK_SECONDS = 1.0


class KeysFileError(ValueError):
    """The key file is malformed or cannot be read; the message says where and why."""


def new_key() -> str:
    """Return a random key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    """Return the hash of a key, as stored in the file."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """The keys of a file, which is reloaded when it changes."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            KeysFileError: the file cannot be read, or a line is malformed.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._names = _read(path)
        self._checked_at = time.monotonic()

    def authenticate(self, headers: Mapping[str, str]) -> str:
        """Return the name of a request's key.

        Args:
            headers: value by name in lower case.

        Raises:
            ClientError: 401, the key is missing or unknown.
        """
        self._refresh()
        key = _read_key(headers)
        if key is None:
            raise ClientError(
                "API key required; expected Authorization: Bearer KEY, or X-API-Key: KEY", 401
            )
        # Looking up a hash leaks nothing about the keys through its timing.
        name = self._names.get(hash_key(key))
        if name is None:
            raise ClientError("unknown API key", 401)
        return name

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp  # even of an invalid file, whose error is logged once
                self._names = _read(self._path)
                log.info("%d API keys read from %s", len(self._names), self._path)
        except KeysFileError as error:
            # A half-written file must neither lock callers out nor let them in.
            log.error("keeping the previous API keys: %s", error)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise KeysFileError(f"API key file {path}: {error.strerror}") from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(path: Path) -> dict[str, str]:
    """Return the name of each key by its hash."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysFileError(f"API key file {path}: {error}") from error
    names = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise KeysFileError(
                f"API key file {path}, line {number}: "
                "expected a name and the SHA-256 of a key in hexadecimal"
            )
        names[match["hash"]] = match["name"]
    return names


def _read_key(headers: Mapping[str, str]) -> str | None:
    """Return a request's key; browsers send it as the password of Basic authentication."""
    if "x-api-key" in headers:
        return headers["x-api-key"].strip()
    authorization = Authorization.from_header(headers.get("authorization"))
    if authorization is None:
        return None
    return authorization.token if authorization.type == "bearer" else authorization.password
