"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any, TypeVar

import click

from rollout.controller import Controller, Settings
from rollout.errors import RolloutError
from rollout.network import host_and_port
from rollout.state import SHADOW_STEP
from rollout.store import Store

F = TypeVar("F", bound=Callable[..., Any])

STATE_DIRECTORY = ".rollout"  # in the directory of all models
# In percent; gateways divide requests into 10,000 buckets.
MIN_SHARE, MAX_SHARE = 0.01, 99.99
_MAX_DAYS = 36_500
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """Seconds, or a number with a unit, such as 90s, 10m, 1h or 2d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", str(value))
        if match is None:
            self.fail(f"expected a duration such as 90s, 10m or 1h, got {value!r}", param, ctx)
        seconds = float(match[1]) * _UNITS[match[2]]
        if seconds > _MAX_DAYS * _UNITS["d"]:
            self.fail(f"expected at most {_MAX_DAYS:,} days, got {value!r}", param, ctx)
        return seconds


class Steps(click.ParamType[tuple[float, ...]]):
    """Comma-separated, ascending percentages; `shadow` may come first."""

    name = "steps"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the shares; 0 for the shadow stage."""
        words = [word.strip() for word in str(value).split(",")]
        try:
            shares = [SHADOW_STEP if word == "shadow" else float(word) for word in words]
        except ValueError:
            self.fail(f"expected shares such as shadow,5,25,50, got {value!r}", param, ctx)
        start = 1 if words[0] == "shadow" else 0
        if not all(MIN_SHARE <= share <= MAX_SHARE for share in shares[start:]):
            self.fail(
                f"expected shares from {MIN_SHARE} to {MAX_SHARE} (promotion follows the last), "
                f"got {value!r}",
                param,
                ctx,
            )
        if sorted(set(shares)) != shares:
            self.fail(f"expected ascending shares, got {value!r}", param, ctx)
        return tuple(shares)


class Percent(click.FloatRange):
    """A percentage; unlike `FloatRange`, NaN is out of range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the percentage."""
        percent: float = super().convert(value, param, ctx)
        if isnan(percent):
            self.fail(f"expected a number, got {value!r}", param, ctx)
        return percent


class ModelName(click.ParamType[str]):
    """A model name that can be part of a file name."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if not re.fullmatch(r"[^/\0.][^/\0]*", str(value)):
            self.fail(f"expected a name without / that does not start with a dot, got {value!r}")
        return str(value)


class Urls(click.ParamType[tuple[str, ...]]):
    """Comma-separated URLs."""

    name = "urls"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the URLs."""
        urls = tuple(url.strip() for url in str(value).split(",") if url.strip())
        try:
            for url in urls:
                host_and_port(url)
        except RolloutError as error:
            self.fail(str(error), param, ctx)
        return urls


DURATION = Duration()
_CONTROLLER_OPTIONS = [
    click.option("--model", type=ModelName(), default="breast_cancer", help="Name of the model."),
    click.option(
        "--models",
        type=click.Path(file_okay=False, path_type=Path),
        default="models",
        help="Directory of all models; versions are at MODELS/MODEL/<integer>.",
    ),
    click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory of the rollout files.  [default: MODELS/.rollout]",
    ),
    click.option(
        "--servers",
        type=Urls(),
        default="http://127.0.0.1:8501",
        help="REST URLs of the model servers, comma-separated; every address of a name is queried.",
    ),
    click.option(
        "--gateways",
        type=Urls(),
        default="http://127.0.0.1:8080",
        help="URLs of the gateways, comma-separated; every address of a name is queried.",
    ),
]
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the change without making it.")
_STEPS = click.option(
    "--steps",
    type=Steps(),
    default="shadow,5,25,50",
    help="Shares of the requests in percent; `shadow` sends copies only. Promotion follows.",
)
_BAKE = click.option("--bake", type=DURATION, default="10m", help="Minimum duration of each step.")
_TOLERANCE = click.option(
    "--tolerance",
    type=Percent(0, 100, min_open=True),
    default=5.0,
    help="Largest tolerated increase in bad calls, in percent of the calls.",
)
_HOLD = click.option(
    "--hold", type=DURATION, default="1h", help="How long the previous version stays loaded."
)
_MANUAL = click.option(
    "--manual", is_flag=True, help="Leave steps and promotion to the operator; still roll back."
)


def controller_options(command: F) -> F:
    """Add the options of every command, and pass them as a `controller`."""

    @functools.wraps(command)
    def wrapper(
        model: str,
        models: Path,
        state: Path | None,
        servers: tuple[str, ...],
        gateways: tuple[str, ...],
        dry_run: bool = False,
        **kwargs: Any,
    ) -> Any:
        store = Store(state or models / STATE_DIRECTORY)
        try:
            controller = Controller(store, models, model, servers, gateways, dry_run=dry_run)
            return command(controller=controller, **kwargs)
        except RolloutError as error:
            raise click.ClickException(str(error)) from error

    return _add_options(wrapper, _CONTROLLER_OPTIONS)  # type: ignore[return-value]


def rollout_options(command: F) -> F:
    """Add the options of `start`, and pass them as `settings`."""
    with_options: F = _STEPS(shadow_options(_MANUAL(command)))
    return with_options


def shadow_options(command: F) -> F:
    """Add the options of `shadow`, and pass them as `settings`."""

    @functools.wraps(command)
    def wrapper(
        bake: float,
        tolerance: float,
        hold: float,
        steps: tuple[float, ...] = (SHADOW_STEP,),
        manual: bool = True,
        **kwargs: Any,
    ) -> Any:
        settings = Settings(steps, bake, tolerance, hold, manual)
        return command(settings=settings, **kwargs)

    return _add_options(wrapper, [_BAKE, _TOLERANCE, _HOLD])  # type: ignore[return-value]


def json_option(command: F) -> F:
    """Add --json."""
    return _JSON(command)


def dry_run_option(command: F) -> F:
    """Add --dry-run."""
    return _DRY_RUN(command)


def _add_options(command: Callable[..., Any], options: list[Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
