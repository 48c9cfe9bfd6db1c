"""TensorFlow Serving in a container, run as a local process.

`python -m launcher.container` runs the container, prints its log, and exits when the container
exits. SIGTERM and SIGINT stop the container. It is removed when it ends; the next run on the same
port removes one that a killed run left behind.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click
import docker
from docker.errors import APIError, DockerException, ImageNotFound

DEFAULT_IMAGE = "tensorflow/serving"
DEFAULT_VERSION = "2.20.0"
GRPC_PORT = 8500
REST_PORT = 8501
# With the default, four times the number of cores, TensorFlow Serving rejects some of the client's
# concurrent calls.
GRPC_MAX_THREADS = 64
LABEL = "org.logreg-serving.role"
STOP_SECONDS = 1


@click.command(context_settings={"show_default": True, "ignore_unknown_options": True})
@click.option("--port", type=click.IntRange(1, 65535), default=8500, help="gRPC port on the host.")
@click.option("--bind_address", default="127.0.0.1", help="Host address to listen on.")
@click.option("--model_name", default="default", help="Name of the model.")
@click.option(
    "--model_base_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory whose integer-named children are the model's versions.",
)
@click.option(
    "--model_config_file",
    type=click.Path(path_type=Path),
    help="Model config file below the directory of all models; the directory is then mounted at "
    "the same path in the container.",
)
@click.option("--rest_api_port", type=click.IntRange(1, 65535), help="HTTP port on the host.")
@click.option(
    "--image",
    envvar="TF_SERVING_IMAGE",
    default=f"{DEFAULT_IMAGE}:{os.environ.get('TF_SERVING_VERSION', DEFAULT_VERSION)}",
    show_envvar=True,
    help="Image with tensorflow_model_server.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Check that the Docker engine responds, pull the image if it is missing, and exit.",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def main(
    port: int,
    bind_address: str,
    model_name: str,
    model_base_path: Path,
    model_config_file: Path | None,
    rest_api_port: int | None,
    image: str,
    check: bool,
    flags: tuple[str, ...],
) -> None:
    """Run TensorFlow Serving in a container until it ends, or until SIGTERM or SIGINT.

    Further FLAGS go to tensorflow_model_server.
    """
    base_path = model_base_path.resolve()
    options: dict[str, dict[str, Any]] = {
        "ports": {f"{GRPC_PORT}/tcp": (bind_address, port)},
        "volumes": {str(base_path): {"bind": f"/models/{model_name}", "mode": "ro"}},
    }
    command = [f"--model_name={model_name}", f"--model_base_path=/models/{model_name}", *flags]
    if model_config_file is not None:
        command.append(f"--model_config_file={model_config_file.resolve()}")
        models = str(base_path.parent)
        options["volumes"] = {models: {"bind": models, "mode": "ro"}}
    if rest_api_port is not None:
        command.append(f"--rest_api_port={REST_PORT}")
        options["ports"][f"{REST_PORT}/tcp"] = (bind_address, rest_api_port)
    engine = _connect()
    try:
        _ensure_image(engine, image)
        if not check:
            sys.exit(_run(engine, image, f"logreg-serving-{port}", command, options))
    finally:
        engine.close()


def _connect() -> Any:
    try:
        return docker.from_env()
    except DockerException as error:
        raise click.ClickException(
            f"cannot reach Docker: {_reason(error)}; start it, or use the embedded server"
        ) from error


def _ensure_image(engine: Any, image: str) -> None:
    try:
        engine.images.get(image)
    except ImageNotFound:
        click.echo(f"pulling {image}", err=True)
        try:
            engine.images.pull(image)
        except DockerException as error:
            raise click.ClickException(
                f"image {image} is not on this machine and cannot be pulled: {_reason(error)}"
            ) from error


def _run(
    engine: Any, image: str, name: str, flags: list[str], options: dict[str, dict[str, Any]]
) -> int:
    """Run the container; return 0 after a signal, else its exit status, or 1 if that is 0."""
    _remove_leftover(engine, name)
    stopping = False

    def stop(signal_number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        container.stop(timeout=STOP_SECONDS)

    try:
        container = engine.containers.create(
            image,
            name=name,
            labels={LABEL: "model-server"},
            # The image's own entrypoint is a shell that swallows SIGTERM.
            entrypoint=["tensorflow_model_server"],
            command=[
                f"--port={GRPC_PORT}",
                f"--grpc_max_threads={GRPC_MAX_THREADS}",
                *flags,
            ],
            init=True,
            user=f"{os.getuid()}:{os.getgid()}",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            **options,
        )
    except DockerException as error:
        raise click.ClickException(f"cannot create the container: {_reason(error)}") from error
    try:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        container.start()
        if stopping:  # a signal during the start may have come before there was anything to stop
            container.stop(timeout=STOP_SECONDS)
        for chunk in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        status = int(container.wait()["StatusCode"])
    except DockerException as error:
        raise click.ClickException(f"cannot run the container: {_reason(error)}") from error
    finally:
        container.remove(force=True)
    if stopping:
        return 0
    click.echo(f"the container exited with status {status}", err=True)
    return status or 1


def _remove_leftover(engine: Any, name: str) -> None:
    """Remove the container that a killed run left behind."""
    for container in engine.containers.list(all=True, filters={"label": LABEL, "name": name}):
        if container.name == name:
            container.remove(force=True)


def _reason(error: DockerException) -> str:
    """Return the engine's message without the request that caused it."""
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation).strip()
    return str(error).strip()


if __name__ == "__main__":
    main(prog_name="python -m launcher.container")
