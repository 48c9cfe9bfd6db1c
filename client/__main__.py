"""The client's command line: `python -m client`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click
from pydantic import ValidationError

from client.errors import ClientError
from client.settings import METRICS_DIRECTORY, Settings

if TYPE_CHECKING:
    from client.serving.client import ServingClient, Target


@click.group()
def main() -> None:
    """Serve a model server's predictions over HTTP, or predict files."""


def _read_settings(**options: Any) -> Settings:
    """Read the settings; the command line overrides the environment."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
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
@click.option("--model", help="Model of /predict.  [CLIENT_MODEL; default: breast_cancer]")
def serve(host: str | None, port: int | None, server: str | None, model: str | None) -> None:
    """Serve predictions over HTTP until SIGTERM or SIGINT."""
    settings = _read_settings(host=host, port=port, server=server, model=model)
    with _shared_metrics(settings.workers):
        _serve(settings)


@contextmanager
def _shared_metrics(workers: int) -> Iterator[None]:
    """Create the directory through which several workers share their metrics."""
    if workers == 1 or METRICS_DIRECTORY in os.environ:
        yield
        return
    with TemporaryDirectory(prefix="metrics-") as folder:
        os.environ[METRICS_DIRECTORY] = folder
        yield


def _serve(settings: Settings) -> None:
    # Imported once the metrics directory is set.
    from client.http.api_keys import ApiKeys, KeysFileError
    from client.http.server import PortTakenError, UnknownSettingError, serve_http

    # The worker processes read their settings from the environment.
    for name, value in settings.model_dump(exclude_none=True).items():
        os.environ[f"CLIENT_{name.upper()}"] = str(value)
    try:
        if settings.api_keys is not None:
            ApiKeys(settings.api_keys)  # report its errors once, before the workers start
        serve_http(settings)
    except (PortTakenError, UnknownSettingError, KeysFileError) as error:
        raise click.ClickException(str(error)) from error


@main.command("new-key")
@click.argument("name")
def new_key(name: str) -> None:
    """Create an API key, and the line to add to the file that CLIENT_API_KEYS names."""
    from client.http.api_keys import LINE, hash_key, new_key

    key = new_key()
    line = f"{name} {hash_key(key)}"
    if not LINE.fullmatch(line):
        raise click.UsageError(f"expected a name of letters, digits and ._@-, got {name!r}")
    click.echo(f"key: {key}", err=True)
    click.echo(line)


F = TypeVar("F", bound=Callable[..., Any])


def _server_options(command: F) -> F:
    """Add the options for the model and for the connection to its server."""
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = (
        click.option("--model", help="Model to use.  [CLIENT_MODEL; default: breast_cancer]"),
        click.option("--version", type=click.IntRange(0, 2**63 - 1), help="[default: latest]"),
        click.option("--label", help="Version label, instead of a version."),
        click.option("--server", help="host:port.  [CLIENT_SERVER; default: 127.0.0.1:8500]"),
        click.option("--tls", is_flag=True, help="Encrypt the connection.  [CLIENT_SERVER_TLS]"),
        click.option("--ca", type=path, help="PEM file of the trusted CAs.  [CLIENT_SERVER_CA]"),
        click.option("--cert", type=path, help="PEM file (mutual TLS).  [CLIENT_SERVER_CERT]"),
        click.option("--key", type=path, help="PEM file of its key.  [CLIENT_SERVER_KEY]"),
        click.option(
            "--timeout", type=click.FloatRange(0, 3600, min_open=True), help="Seconds per call."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def _connect(
    *,
    model: str | None,
    version: int | None,
    label: str | None,
    server: str | None,
    tls: bool,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    timeout: float | None,
) -> Iterator[tuple[ServingClient, Target, Settings]]:
    from client.serving.client import ServingClient, Target

    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other")
    settings = _read_settings(
        server=server,
        model=model,
        timeout=timeout,
        server_tls=tls or any((ca, cert, key)) or None,
        server_ca=ca,
        server_cert=cert,
        server_key=key,
    )
    try:
        tls_files = settings.tls
        with ServingClient(settings.server, timeout=settings.timeout, tls=tls_files) as client:
            yield client, Target(settings.model, version, label), settings
    except (ClientError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("rows", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@_server_options
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "tsv", "json", "ndjson", "arrow", "npy"]),
    help="[default: inferred from the file's name or first bytes]",
)
@click.option("--id", "id_column", default="", help="Column to copy to the output.")
@click.option(
    "--keep", multiple=True, help="Another column to copy to the output, or all; repeatable."
)
@click.option(
    "--output", "outputs", multiple=True, help="Model output to return; repeatable.  [default: all]"
)
@click.option(
    "--on-error",
    type=click.Choice(["table", "row"]),
    default="table",
    show_default=True,
    help="On a bad row, refuse the whole table or write the error in place of the prediction.",
)
@click.option(
    "--csv-guard/--no-csv-guard",
    default=True,
    show_default=True,
    help="In CSV, put ' before text that a spreadsheet would evaluate as a formula.",
)
def predict(
    rows: Path,
    file_format: str | None,
    id_column: str,
    keep: tuple[str, ...],
    outputs: tuple[str, ...],
    on_error: str,
    csv_guard: bool,
    **server: Any,
) -> None:
    """Predict the rows of a file (- for standard input) over gRPC.

    CSV needs a header with the column names; JSON is a list of rows or {"instances": [...]};
    ndjson has one row per line; arrow is an Arrow IPC stream; npy is a file written by numpy.save.
    All may be compressed with gzip. Predictions go to standard output in the same format.
    """
    from client.codecs.tables import TableOptions
    from client.predict_file import predict_file

    options = TableOptions(
        outputs=outputs,
        id_column=id_column,
        keep=() if keep == ("all",) else keep,
        keep_all=keep == ("all",),
        errors_in_rows=on_error == "row",
        csv_guard=csv_guard,
    )
    with _connect(**server) as (client, target, _):
        predict_file(client, target, rows, file_format, options)


@main.command()
@_server_options
@click.option("--signature", default="", help="[default: serving_default]")
@click.option("--curl", is_flag=True, help="Print a command that sends the request.")
def example(signature: str, curl: bool, **server: Any) -> None:
    """Print an example request for the served model.

    Rows are typical if the model describes its columns; otherwise only their types are right.
    """
    import json
    import shlex

    from client.codecs.example import example_request

    with _connect(**server) as (client, target, settings):
        request = example_request(client.schema(target), signature)
        if not curl:
            click.echo(json.dumps(request, indent=2, ensure_ascii=False))
            return
        body = shlex.quote(json.dumps(request, ensure_ascii=False))
        selector = ""
        if target.version is not None:
            selector = f"/versions/{target.version}"
        elif target.label is not None:
            selector = f"/labels/{quote(target.label, safe='')}"
        path = f"/v1/models/{quote(target.model, safe='')}{selector}:predict"
        url = shlex.quote(f"http://{settings.host}:{settings.port}{path}")
        click.echo(f"curl {url} -H 'Content-Type: application/json' -d {body}")


if __name__ == "__main__":
    main(prog_name="python -m client")
