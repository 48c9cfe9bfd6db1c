"""`python -m rollout init | start | shadow | promote | abort | rollback`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import click
from click.core import ParameterSource

from rollout import actions
from rollout.cli.options import (
    MAX_SHARE,
    MIN_SHARE,
    Percent,
    controller_options,
    dry_run_option,
    json_option,
    rollout_options,
    shadow_options,
)
from rollout.controller import Controller, Settings
from rollout.errors import RolloutError
from rollout.state import SHADOW_STEP, Rollout
from rollout.versions import newest, versions

POLL_SECONDS = 0.25
SHOW_DEFAULT = {"show_default": True}


def _command(function: Callable[..., None]) -> click.Command:
    """Make a command that changes the state of one model, with --json and --dry-run."""
    with_options = controller_options(json_option(dry_run_option(function)))
    return click.command(context_settings=SHOW_DEFAULT)(with_options)


@_command
def init(controller: Controller, as_json: bool) -> None:
    """Make the newest version stable if there is no rollout file yet.

    Run this before the model servers start: it writes their model config file.
    """
    _change(controller, as_json, lambda state, now: state)


@_command
@click.argument("version", type=click.IntRange(0), required=False)
@click.option(
    "--percent",
    type=Percent(MIN_SHARE, MAX_SHARE),
    help="The only step, instead of --steps; if VERSION is being rolled out, its new share.",
)
@rollout_options
def start(
    controller: Controller,
    settings: Settings,
    version: int | None,
    percent: float | None,
    as_json: bool,
) -> None:
    """Roll out VERSION, by default the newest.

    Returns when VERSION is loaded and its first step begins; `watch` judges it and takes the
    remaining steps.
    A rollout in progress keeps its settings, except --steps, unless an option changes them.
    """
    if percent is not None:
        settings = replace(settings, steps=(percent,))
    _start(controller, settings, version, as_json)


@_command
@click.argument("version", type=click.IntRange(0), required=False)
@shadow_options
def shadow(controller: Controller, settings: Settings, version: int | None, as_json: bool) -> None:
    """Send copies of requests to VERSION; callers never receive its responses.

    VERSION is by default the newest. `watch` judges it and rolls it back if it is worse. The
    shadow stage lasts until `start`, `promote` or `abort`.
    """
    _start(controller, settings, version, as_json)


@_command
def promote(controller: Controller, as_json: bool) -> None:
    """Make the candidate stable now, whatever the evidence."""
    servers = controller.servers()
    _change(controller, as_json, lambda state, now: actions.promote(state, servers, now))


@_command
def abort(controller: Controller, as_json: bool) -> None:
    """End the rollout: the stable version answers all requests again."""
    _change(controller, as_json, actions.abort)


@_command
def rollback(controller: Controller, as_json: bool) -> None:
    """Return to the version before the last promotion.

    It stays loaded for --hold, so this takes a second.
    """
    servers = controller.servers()
    _change(controller, as_json, lambda state, now: actions.roll_back(state, servers, now))


def _change(
    controller: Controller, as_json: bool, action: Callable[[Rollout, datetime], Rollout]
) -> None:
    report(controller, controller.change(action), as_json)


def report(controller: Controller, state: Rollout, as_json: bool) -> None:
    """Print the new state."""
    if as_json:
        click.echo(json.dumps(state.as_json(), ensure_ascii=False))
        return
    prefix = "would be: " if controller.dry_run else ""
    share = f", version {state.canary}: {state.percent:g}%" if state.canary is not None else ""
    click.echo(
        f"{prefix}{state.model}: {state.phase}, version {state.stable} stable{share}"
        f" ({state.reason})"
    )


def _start(
    controller: Controller,
    settings: Settings,
    version: int | None,
    as_json: bool,
) -> None:
    _check_servers(controller)
    published = versions(controller.directory)
    candidate = newest(controller.directory) if version is None else version
    state = controller.change(
        lambda state, now: actions.start(
            state,
            candidate,
            published,
            now,
            f"started version {candidate} by hand",
            **_select_settings(state, settings),
        )
    )
    while state.phase == "loading" and not controller.dry_run:
        state = controller.tick().state
        time.sleep(POLL_SECONDS if state.phase == "loading" else 0)
    if state.phase == "rolled_back":
        raise RolloutError(state.reason)
    report(controller, state, as_json)


def _select_settings(state: Rollout, settings: Settings) -> dict[str, Any]:
    """Return the settings to apply; a rollout in progress keeps those not on the command line."""
    selected = asdict(settings)
    if state.at_rest:
        return selected
    source = click.get_current_context().get_parameter_source
    names = {"bake", "tolerance", "hold"}
    # `shadow` sets `manual` for its own stage only.
    if state.steps != (SHADOW_STEP,):
        names.add("manual")
    for name in names:
        if source(name) is ParameterSource.DEFAULT:
            del selected[name]
    return selected


def _check_servers(controller: Controller) -> None:
    servers = controller.servers()
    if not servers or all(server.problem for server in servers.values()):
        problems = "; ".join(f"{address}: {server.problem}" for address, server in servers.items())
        raise RolloutError(f"no model server answers (--servers): {problems or 'none is given'}")
