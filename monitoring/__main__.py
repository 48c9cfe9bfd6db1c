"""The command line: `python -m monitoring`."""

from __future__ import annotations

import sys

import click

from monitoring.cli.drift import drift
from monitoring.cli.files import compact, forget
from monitoring.cli.quality import quality
from monitoring.cli.retrain import retrain
from monitoring.cli.ship import ship
from monitoring.cli.watch import watch


@click.group()
def main() -> None:
    """Watch a model in use: drift, the prediction log, quality from labels, retraining."""


for command in (drift, compact, forget, quality, retrain, ship, watch):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main(prog_name="python -m monitoring"))
