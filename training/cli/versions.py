"""`python -m training versions | verify | rollback`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from training.publishing import manifest
from training.publishing.versions import republish, versions

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a version.")
def list_versions(models: Path, model: str, as_json: bool) -> None:
    """List the published versions, oldest first."""
    for number in versions(models / model):
        facts = manifest.read(models / model / str(number)) or {}
        if as_json:
            kept = {k: v for k, v in facts.items() if k not in ("files", "intervals")}
            click.echo(json.dumps({"version": number, **kept}))
            continue
        metrics = "  ".join(
            f"{name} {facts['metrics'][name]:.4f}"
            for name in ("accuracy", "auc", "log_loss")
            if name in facts.get("metrics", {})
        )
        notes = [f"rollback to {facts['rollback_to']}"] if "rollback_to" in facts else []
        if facts.get("gate", {}).get("forced"):
            notes.append(f"forced: {facts['gate']['reason']}")
        trained_at = facts.get("trained_at", "no manifest")
        click.echo("  ".join([str(number), trained_at, metrics, *notes]).rstrip())


@click.command()
@MODELS
@MODEL
@click.argument("number", type=int, required=False)
def verify(models: Path, model: str, number: int | None) -> None:
    """Compare every file of a version, or of all, with its manifest."""
    numbers = [number] if number is not None else versions(models / model)
    if not numbers:
        raise click.ClickException(f"{models / model} has no version")
    for version in numbers:
        try:
            count = manifest.verify(models / model / str(version))
        except manifest.VerifyError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{models / model / str(version)}: {count} files as published")


@click.command()
@MODELS
@MODEL
@click.option("--to", "number", type=int, help="Version to go back to; otherwise the one before.")
def rollback(models: Path, model: str, number: int | None) -> None:
    """Publish a copy of an older version as the newest; nothing is removed."""
    published = versions(models / model)
    if number is None and len(published) < 2:
        raise click.ClickException(f"{models / model} has no version before the newest")
    number = published[-2] if number is None else number
    if number not in published:
        raise click.ClickException(f"{models / model} has no version {number}")
    try:
        manifest.verify(models / model / str(number))
        click.echo(republish(models, model, number, lambda copy: _note_rollback(copy, number)))
    except (manifest.VerifyError, OSError) as error:
        raise click.ClickException(f"cannot go back to {number}: {error}") from error


def _note_rollback(copy: Path, number: int) -> None:
    facts = manifest.read(copy) or {}
    manifest.write(copy, {**facts, "rollback_to": number})
