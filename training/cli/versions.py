"""`python -m training versions | verify | rollback`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from training.errors import RollbackError
from training.evaluation.metric_names import SUMMARY_METRICS
from training.publishing import manifest
from training.publishing.file_hashes import ManifestError, verify
from training.publishing.rollback import roll_back
from training.publishing.versions import versions

MODELS = click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default="models",
    show_default=True,
    help="Directory of all models; versions are at MODELS/MODEL/<integer>.",
)
MODEL = click.option(
    "--model", default="breast_cancer", show_default=True, help="Name of the model."
)


@click.command("versions")
@MODELS
@MODEL
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each version.")
def list_versions(models: Path, model: str, as_json: bool) -> None:
    """List the published versions, oldest first."""
    for number in versions(models / model):
        try:
            record = manifest.read(models / model / str(number))
        except ManifestError as error:
            entry = {"version": number, "error": str(error)}
            click.echo(json.dumps(entry) if as_json else f"{number}  {error}")
            continue
        if as_json:
            stored = record.as_json()
            del stored["files"], stored["intervals"]
            click.echo(json.dumps({"version": number, **stored}))
            continue
        metrics = "  ".join(
            f"{n} {record.metrics[n]:.4f}" for n in SUMMARY_METRICS if n in record.metrics
        )
        notes = [f"rollback to {record.rollback_to}"] if record.rollback_to is not None else []
        notes += [record.reason] if record.reason else []
        notes += [f"{notice[0].lower()}{notice[1:]}" for notice in record.verdict.notices]
        notes += record.warnings
        click.echo("  ".join([str(number), record.trained_at, metrics, *notes]).rstrip())


@click.command("verify")
@MODELS
@MODEL
@click.argument("number", type=int, required=False)
def verify_versions(models: Path, model: str, number: int | None) -> None:
    """Compare the files of one version, or of all versions, with their manifests."""
    numbers = [number] if number is not None else versions(models / model)
    if not numbers:
        raise click.ClickException(f"{models / model} has no version")
    for version in numbers:
        try:
            count = verify(models / model / str(version))
        except ManifestError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{models / model / str(version)}: {count} files as published")


@click.command()
@MODELS
@MODEL
@click.option("--to", "number", type=int, help="Version to go back to. [default: one step back]")
def rollback(models: Path, model: str, number: int | None) -> None:
    """Publish a copy of an older version as the newest; each run goes back one version further.

    Nothing is removed, so a rollback can be undone with --to.
    """
    try:
        published = roll_back(models, model, number)
    except RollbackError as error:
        raise click.ClickException(str(error)) from error
    click.echo(published.message, err=True)
    click.echo(published.path)
