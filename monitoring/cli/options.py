"""Shared options, and the output of results and errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from monitoring.errors import MonitoringError

DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
MAX_DURATION = timedelta(days=36_500)
BYTE_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}

Command = Callable[..., Any]


class Duration(click.ParamType[timedelta]):
    """A duration such as 30m, 24h, 7d or 4w."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the duration."""
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d+)([smhdw])", str(value))
        duration = timedelta()
        if match is not None and len(match[1]) <= 8:
            duration = timedelta(**{DURATION_UNITS[match[2]]: int(match[1])})
        if not timedelta() < duration <= MAX_DURATION:
            self.fail(f"{value!r}: expected a duration such as 30m, 24h, 7d or 4w", param, ctx)
        return duration


class ByteCount(click.ParamType[int]):
    """A number of bytes such as 500MB or 20GB; units are powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        match = re.fullmatch(r"(\d+)\s?([KMGT]?B)?", str(value))
        if match is None:
            self.fail(f"{value!r}: expected a size such as 500MB or 20GB", param, ctx)
        return int(match[1]) * BYTE_UNITS[match[2] or "B"]


DIRECTORY = click.Path(file_okay=False, path_type=Path)
MODELS = click.option(
    "--models",
    type=DIRECTORY,
    default="models",
    show_default=True,
    help="Directory of all models; versions are at MODELS/MODEL/<integer>.",
)
MODEL = click.option(
    "--model", default="breast_cancer", show_default=True, help="Name of the model."
)
LOG = click.option(
    "--log", type=DIRECTORY, required=True, help="Directory of the log: the gateway's CLIENT_LOG."
)
GATEWAYS = click.option(
    "--gateways",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="Comma-separated URLs of the gateways; all addresses of a host are read.",
)
VERSION = click.option(
    "--version", type=int, help="Version number. [default: the version with the most rows]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")


def console() -> Console:
    """Return a console for progress on standard error."""
    return Console(stderr=True)


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def report_errors(command: Command) -> Command:
    """Make a command report expected errors in one line, with exit status 1."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except MonitoringError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"cannot read or write: {error}") from error

    return run
