"""The command line: `python -m rollout`."""

from __future__ import annotations

import sys

import click

from rollout.cli.commands import abort, init, promote, rollback, shadow, start
from rollout.cli.status import status
from rollout.cli.watch import watch


@click.group()
def main() -> None:
    """Send traffic to a new model version step by step, and roll it back if it is worse.

    The state is one JSON file per model, which gateways read, and a model config file, which
    model servers poll.
    """


for command in (status, init, start, shadow, promote, abort, rollback, watch):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main(prog_name="python -m rollout"))
