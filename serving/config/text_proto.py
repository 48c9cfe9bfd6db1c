"""Files in protobuf's text format."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class ConfigError(ValueError):
    """The configuration is invalid; the message names the flag or file and the reason."""


def read_text_proto(path: Path, message: M, name: str, *, secret: bool = False) -> M:
    """Read a file into a message and return the message.

    Args:
        path: the file.
        message: an empty message of the file's type.
        name: description of the file for errors, such as its flag.
        secret: do not quote the file in errors.

    Raises:
        ConfigError: it cannot be read or parsed.
    """
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        if secret and isinstance(error, text_format.ParseError):
            position = f"{error.GetLine()}:{error.GetColumn()}"
            raise ConfigError(f"{name} {path}: {position} : cannot be parsed") from None
        raise ConfigError(f"{name} {path}: {error}") from error
    return message
