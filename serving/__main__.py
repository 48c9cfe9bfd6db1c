"""The model server's command line: `python -m serving`, with tensorflow_model_server's flags."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

# TensorFlow's own start-up notes are not for people who run a server.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of it is in our own messages

PORT = click.IntRange(0, 65535)


@click.command(context_settings={"show_default": True})
@click.option("--port", type=PORT, default=8500, help="gRPC port; 0 lets the system choose.")
@click.option(
    "--rest_api_port",
    type=PORT,
    default=0,
    help="Port that answers GET /v1/models/NAME for health checks; 0: none.",
)
@click.option("--bind_address", default="0.0.0.0", help="Address to listen on.")
@click.option("--model_name", default="default", help="Name of the model at --model_base_path.")
@click.option(
    "--model_base_path",
    type=click.Path(path_type=Path),
    help="Directory whose integer-named children are the model's versions.",
)
@click.option(
    "--model_config_file",
    type=click.Path(path_type=Path),
    help="ModelServerConfig in text format, in place of the two flags above.",
)
@click.option(
    "--file_system_poll_wait_seconds",
    type=click.FloatRange(0),
    default=1,
    help="Time between two looks for new versions; 0: look only at the start.",
)
def main(
    port: int,
    rest_api_port: int,
    bind_address: str,
    model_name: str,
    model_base_path: Path | None,
    model_config_file: Path | None,
    file_system_poll_wait_seconds: float,
) -> None:
    """Serve SavedModels over TensorFlow Serving's gRPC API, without Docker.

    The flags are tensorflow_model_server's, but for --bind_address. A flag that is not listed here
    is refused.
    """
    if (model_base_path is None) == (model_config_file is None):
        raise click.UsageError("expected either --model_base_path or --model_config_file")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )

    # Only now, so that --help and wrong flags do not wait seconds for TensorFlow.
    import asyncio

    import tensorflow as tf

    from serving.model_config import ConfigError, ModelConfig, read_config_file
    from serving.server import serve

    tf.get_logger().setLevel(logging.ERROR)
    try:
        if model_config_file is not None:
            models = read_config_file(model_config_file)
        else:
            assert model_base_path is not None
            models = [ModelConfig(model_name, model_base_path)]
        asyncio.run(
            serve(
                models,
                bind_address=bind_address,
                port=port,
                rest_api_port=rest_api_port,
                poll_wait_seconds=file_system_poll_wait_seconds,
            )
        )
    except (ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error
    # Everything is closed; TensorFlow's own teardown would take another second to free what the
    # system frees at once.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(prog_name="python -m serving")
