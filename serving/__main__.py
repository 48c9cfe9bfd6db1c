"""The model server's command line: `python -m serving`, with tensorflow_model_server's flags."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from _thread import start_new_thread

import click

from serving.model_servers.flags import Flags, with_flags

# Hide the start-up messages of TensorFlow and gRPC: this server reports errors itself.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow would import Keras 3, which doubles the import time and is not used here. With this
# variable, TensorFlow looks for tf_keras instead, which is not installed.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@with_flags
def main(flags: Flags) -> None:
    """Serve SavedModels over TensorFlow Serving's gRPC API, without Docker.

    The flags are tensorflow_model_server's, plus --bind_address, --reload_root and
    --load_timeout_seconds. Unsupported flags are rejected. The gRPC port opens once every model has
    loaded. Once only retries of failed loads are left, it stays closed for at most ten seconds (one
    second if every model has an available version).
    """
    if flags.version:
        click.echo(_versions())
        return
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    stop = threading.Event()
    # Handlers run in this thread, which may hold the event's lock; a new thread can wait for it.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda number, frame: start_new_thread(stop.set, ()))

    # Imported late: TensorFlow takes seconds, and --help and flag errors do not need it.
    import tensorflow as tf

    from serving.config.text_proto import ConfigError
    from serving.errors import ServingError
    from serving.model_servers.options import ServerOptions
    from serving.model_servers.server import serve

    tf.get_logger().setLevel(logging.ERROR)
    try:
        serve(ServerOptions.of(flags), stop)
    except ServingError as error:
        logging.shutdown()
        click.echo(f"Error: {error.code.name}: {error.message}", err=True)
        os._exit(1)  # a hanging load must not delay the exit
    except (ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error
    # Skip TensorFlow's teardown: it takes a second to free memory that the system frees at once.
    logging.shutdown()
    os._exit(0)


def _versions() -> str:
    from importlib.metadata import packages_distributions, version

    # TensorFlow is installed as tensorflow-cpu or tensorflow.
    (library, *_) = packages_distributions()["tensorflow"]
    return (
        f"TensorFlow ModelServer: embedded, compatible with {version('tensorflow-serving-api')}\n"
        f"TensorFlow Library: {version(library)}"
    )


if __name__ == "__main__":
    main(prog_name="python -m serving")
