"""The client's command line: `python -m client`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from pydantic import ValidationError

from client.errors import ClientError
from client.settings import METRICS_DIRECTORY, Settings


@click.group()
def main() -> None:
    """Ask a model server for predictions: over HTTP for others, or here and now."""


def _settings(**given: Any) -> Settings:
    """Read the settings; what was given on the command line counts more than the environment."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "CLIENT_" + "_".join(str(part) for part in first["loc"]).upper()
        raise click.UsageError(f"{name}: {first['msg']}, got {first['input']!r}") from error


@main.command()
@click.option("--host", help="Address to listen on.  [CLIENT_HOST; default: 127.0.0.1]")
@click.option("--port", type=int, help="HTTP port.  [CLIENT_PORT; default: 8080]")
@click.option(
    "--server", help="host:port of the model server.  [CLIENT_SERVER; default: 127.0.0.1:8500]"
)
@click.option(
    "--model", help="Model that /predict is about.  [CLIENT_MODEL; default: breast_cancer]"
)
def serve(host: str | None, port: int | None, server: str | None, model: str | None) -> None:
    """Serve predictions over HTTP until SIGTERM or SIGINT."""
    settings = _settings(host=host, port=port, server=server, model=model)
    with _shared_metrics(settings.workers):
        _serve(settings)


@contextmanager
def _shared_metrics(workers: int) -> Iterator[None]:
    """Give several workers a place where each can read the others' numbers."""
    if workers == 1 or METRICS_DIRECTORY in os.environ:
        yield
        return
    with TemporaryDirectory(prefix="metrics-") as folder:
        os.environ[METRICS_DIRECTORY] = folder
        yield


def _serve(settings: Settings) -> None:
    # Only now that it is known where metrics are kept.
    from client.http.api_keys import ApiKeys, KeysFileError
    from client.http.server import PortTakenError, UnknownSettingError, serve_http

    # The worker processes read their settings from the environment.
    for name, value in settings.model_dump(exclude_none=True).items():
        os.environ[f"CLIENT_{name.upper()}"] = str(value)
    try:
        if settings.api_keys is not None:
            ApiKeys(settings.api_keys)  # what is wrong with the file is told now, and once
        serve_http(settings)
    except (PortTakenError, UnknownSettingError, KeysFileError) as error:
        raise click.ClickException(str(error)) from error


@main.command("new-key")
@click.argument("name")
def new_key(name: str) -> None:
    """Make an API key, and the line about it for the file that CLIENT_API_KEYS names."""
    from client.http.api_keys import LINE, hashed, new_key

    key = new_key()
    line = f"{name} {hashed(key)}"
    if not LINE.fullmatch(line):
        raise click.UsageError(f"expected a name of letters, digits and ._@-, got {name!r}")
    click.echo(f"key, for whoever is to ask: {key}", err=True)
    click.echo(line)


@main.command()
@click.argument("rows", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--model", help="Model to ask.  [CLIENT_MODEL; default: breast_cancer]")
@click.option(
    "--version", type=click.IntRange(0, 2**63 - 1), help="Version to ask; otherwise the latest."
)
@click.option("--label", help="Version label to ask for.")
@click.option(
    "--server", help="host:port of the model server.  [CLIENT_SERVER; default: 127.0.0.1:8500]"
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "json", "ndjson", "arrow", "npy"]),
    help="Form of the rows and of the answer; otherwise told by the file's name or its beginning.",
)
@click.option(
    "--timeout", type=click.FloatRange(0, 3600, min_open=True), help="Seconds for each call."
)
def predict(
    rows: Path,
    model: str | None,
    version: int | None,
    label: str | None,
    server: str | None,
    file_format: str | None,
    timeout: float | None,
) -> None:
    """Predict the rows of a file, - for standard input, over gRPC.

    CSV needs a header with the columns' names; JSON is a list of rows or {"instances": [...]},
    ndjson a row on each line; arrow is Arrow's stream, npy what numpy.save writes.
    The answer goes to standard output in the same form, a row for each row.
    """
    from client.predict_file import predict_file
    from client.serving.client import ServingClient, Target

    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other")
    settings = _settings(server=server, model=model, timeout=timeout)
    with ServingClient(settings.server, timeout=settings.timeout) as connection:
        try:
            predict_file(connection, Target(settings.model, version, label), rows, file_format)
        except (ClientError, OSError) as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m client")
