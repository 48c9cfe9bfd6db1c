"""The training job's command line: `python -m training`."""

from __future__ import annotations

import os
import sys

import click

from training.cli.fit import fit
from training.cli.versions import list_versions, rollback, verify_versions

# TensorFlow's start-up messages are of no use to people who train a model.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Importing TensorFlow imports Keras 3, which doubles the import time and is unused here. With this
# variable, TensorFlow looks for tf_keras instead, which is not installed.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


@click.group()
def main() -> None:
    """Train a logistic regression and publish it as a SavedModel version."""


for command in (fit, list_versions, verify_versions, rollback):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main(prog_name="python -m training"))
