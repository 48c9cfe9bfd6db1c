"""`python -m rollout status`: the state and the evidence so far, as tables."""

from __future__ import annotations

import json
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from rollout import judge
from rollout.cli.commands import SHOW_DEFAULT
from rollout.cli.options import controller_options, json_option
from rollout.controller import Controller, utc_now
from rollout.servers import Servers
from rollout.state import Rollout
from rollout.verdicts import Verdict, format_duration


@click.command(context_settings=SHOW_DEFAULT)
@controller_options
@json_option
def status(controller: Controller, as_json: bool) -> None:
    """Show the state, the evidence and the open conditions, without changing anything."""
    time = utc_now()
    state = controller.store.read(controller.model, time)
    if state is None:
        state = controller.first_state(time)
        notice = f"no rollout file yet: version {state.stable} will become stable"
    else:
        notice = ""
    verdict = controller.verdict(state)
    servers = controller.servers()
    if as_json:
        click.echo(json.dumps(_document(state, verdict, servers), ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False)
    console.print(_state_table(state, notice, (time - state.since).total_seconds()))
    console.print(_server_table(state, servers))
    if verdict is not None:
        if verdict.findings:
            console.print(_evidence_table(verdict))
        console.print(f"{verdict.action}: {verdict.reason}", soft_wrap=True)


def _state_table(state: Rollout, notice: str, seconds: float) -> Table:
    table = Table(box=None, show_header=False)
    table.add_row("model", state.model)
    steps = ", ".join("shadow" if step == 0 else f"{step:g}%" for step in state.steps)
    table.add_row(
        "phase", state.phase if notice else f"{state.phase}, for {format_duration(seconds)}"
    )
    table.add_row("stable", f"version {state.stable}")
    if state.canary is not None:
        table.add_row("canary", f"version {state.canary}, {state.percent:g}% of the requests")
        table.add_row("step", f"{state.step + 1} of {len(state.steps)} ({steps})")
    if state.previous is not None:
        table.add_row("previous", f"version {state.previous}, loaded for `rollback`")
    table.add_row("reason", notice or state.reason)
    return table


def _server_table(state: Rollout, servers: Servers) -> Table:
    table = Table("model server", *(f"version {v}" for v in state.versions), box=box.SIMPLE)
    for address, server in servers.items():
        states = [server.states.get(version, "–") for version in state.versions]
        table.add_row(address, *([server.problem] if server.problem else states))
    return table


def _evidence_table(verdict: Verdict) -> Table:
    table = Table("test", "counted", "e-value", "rolls back at", "harm up to", box=box.SIMPLE)
    for test in verdict.findings:
        table.add_row(
            test.name,
            test.text,
            judge.format_e_value(test.log_e),
            f"{test.threshold:.0f}",
            f"{max(test.harm, 0):.1%}",
        )
    return table


def _document(state: Rollout, verdict: Verdict | None, servers: Servers) -> dict[str, Any]:
    return {
        "state": state.as_json(),
        "servers": {
            address: {"versions": dict(server.states), "problem": server.problem}
            for address, server in servers.items()
        },
        "verdict": verdict
        and {
            "action": verdict.action,
            "reason": verdict.reason,
            "tests": [
                {
                    "name": test.name,
                    "text": test.text,
                    "e_value": test.e_value,
                    "limit": test.threshold,
                    "harm": test.harm,
                    "allowed": test.allowed,
                }
                for test in verdict.findings
            ],
        },
    }
