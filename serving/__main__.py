"""The model server's command line: `python -m serving`, with tensorflow_model_server's flags."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# TensorFlow's own start-up notes are not for people who run a server.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of it is in our own messages

PORT = click.IntRange(0, 65535)


class _File(click.Path):
    """A file; an empty name is none, as in scripts whose variable is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) if value else None


FILE = _File(dir_okay=False, path_type=Path)

# Flags of the original that ask for what this server never does, and why.
NEVER = {
    "use_alts_credentials": "ALTS works between Google's own machines only",
    "platform_config_file": "this server runs TensorFlow SavedModels only",
    "per_process_gpu_memory_fraction": "this server computes on the CPU",
    "prefer_tflite_model": "this server has no TensorFlow Lite",
    "num_tflite_pools": "this server has no TensorFlow Lite",
    "num_tflite_interpreters_per_pool": "this server has no TensorFlow Lite",
    "enable_profiler": "this server has no profiler service",
    "thread_pool_factory_config_file": "this server has thread pools of its own",
    "total_model_memory_limit_bytes": "this server does not estimate what a model takes",
    "xla_cpu_compilation_enabled": "set TF_XLA_FLAGS in the environment instead",
    "xla_gpu_compilation_enabled": "this server computes on the CPU",
    "mixed_precision": "this server serves models as they are",
    "skip_initialize_tpu": "this server computes on the CPU",
}
# And those that ask for what it always does.
ALWAYS = {
    "enable_grpc_healthcheck_service": "health checks are always offered",
    "remove_unused_fields_from_bundle_metagraph": "nothing but signatures is kept of a graph",
    "flush_filesystem_caches": "files are not kept open, and their cache is the system's",
}


def boolean(name: str, default: bool, text: str) -> Callable[[Any], Any]:
    """A flag that is true by being there, or takes `=true` and `=false`."""
    return click.option(
        f"--{name}", type=bool, default=default, is_flag=False, flag_value="true", help=text
    )


def with_fixed_flags(command: Any) -> Any:
    """Let each flag that cannot be honoured say so; to ask for what is done anyway is no error."""

    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        name = str(parameter.name)
        wanted = value is not None and value.lower() not in ("false", "0", "0.0", "")
        if value is not None and wanted is not (name in ALWAYS):
            raise click.UsageError(f"--{name}: {(ALWAYS | NEVER)[name]}")

    for name in ALWAYS | NEVER:
        command = click.option(
            f"--{name}",
            is_flag=False,
            flag_value="true",
            hidden=True,
            callback=check,
            expose_value=False,
        )(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option(
    "--port",
    type=PORT,
    default=8500,
    help="gRPC port; 0 lets the system choose, or is none beside --grpc_socket_path.",
)
@click.option("--bind_address", default="0.0.0.0", help="Address to listen on.")
@click.option("--grpc_socket_path", default="", help="UNIX socket for gRPC.")
@click.option(
    "--rest_api_port",
    type=PORT,
    default=0,
    help="Port that answers GET /v1/models/NAME for health checks, and metrics; 0: none.",
)
@click.option(
    "--rest_api_num_threads",
    type=click.IntRange(1),
    default=4 * (os.cpu_count() or 1),
    help="Requests that --rest_api_port answers at once.",
)
@click.option(
    "--rest_api_timeout_in_ms",
    type=click.IntRange(1),
    default=30_000,
    help="Time that a connection to --rest_api_port may keep silent.",
)
@boolean("rest_api_enable_cors_support", False, "Let pages of other origins read --rest_api_port.")
@click.option("--model_name", default="default", help="Name of the model at --model_base_path.")
@click.option(
    "--model_base_path",
    default="",
    help="Directory whose integer-named children are the model's versions.",
)
@click.option(
    "--model_config_file",
    type=FILE,
    help="ModelServerConfig in text format; with it, the two flags above do not count.",
)
@click.option(
    "--model_config_file_poll_wait_seconds",
    type=click.FloatRange(0),
    default=0,
    help="Time between two looks at --model_config_file; 0: read it only at the start.",
)
@click.option(
    "--reload_root",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    envvar="SERVING_RELOAD_ROOT",
    show_envvar=True,
    help="Directory below which HandleReloadConfigRequest may point a model.  [default: anywhere]",
)
@click.option(
    "--file_system_poll_wait_seconds",
    type=float,
    default=1,
    help="Time between two looks for new versions; 0: look only at the start; below 0: never.",
)
@boolean(
    "allow_version_labels_for_unavailable_models",
    False,
    "Let a new label be given to a version that is not available.",
)
@click.option(
    "--max_num_load_retries",
    type=click.IntRange(0),
    default=5,
    help="How often a load that failed is tried again.",
)
@click.option(
    "--load_retry_interval_micros",
    type=int,
    default=60_000_000,
    help="Time between two attempts to load.",
)
@click.option(
    "--num_load_threads",
    type=click.IntRange(0),
    default=0,
    help="Versions that load at once; 0: 1.",
)
@click.option(
    "--num_unload_threads",
    type=click.IntRange(0),
    default=0,
    help="Versions that unload at once; 0: 1.",
)
@boolean("enable_model_warmup", True, "Answer a version's warm-up requests before it is available.")
@click.option(
    "--num_request_iterations_for_warmup",
    type=click.IntRange(0),
    default=0,
    help="How often each warm-up request is answered; 0: once.",
)
@click.option("--saved_model_tags", default="serve", help="Tags of the graph to load.")
@boolean("enable_batching", False, "Compute requests that wait together in one batch.")
@click.option("--batching_parameters_file", type=FILE, help="BatchingParameters in text format.")
@boolean(
    "enable_per_model_batching_parameters",
    False,
    "Take batching parameters from batching_params.pbtxt in each version's directory.",
)
@click.option(
    "--monitoring_config_file",
    type=FILE,
    help="MonitoringConfig in text format; metrics are on --rest_api_port.",
)
@click.option("--ssl_config_file", type=FILE, help="SSLConfig in text format.")
@click.option(
    "--grpc_max_threads",
    type=click.IntRange(1),
    help="Requests answered at once.  [default: as many as cores, at least 4; 256 with batching]",
)
@click.option(
    "--grpc_channel_arguments",
    default="",
    help="Arguments of the gRPC server, as in grpc.max_connection_age_ms=2000,name=value.",
)
@boolean(
    "enable_serialization_as_tensor_content",
    False,
    "Send the tensors of a PredictResponse as bytes.",
)
@boolean(
    "enable_signature_method_name_check",
    False,
    "Let Classify and Regress refuse signatures of other methods.",
)
@click.option(
    "--tensorflow_session_parallelism",
    type=click.IntRange(0),
    default=0,
    help="Both of the next two.",
)
@click.option(
    "--tensorflow_intra_op_parallelism",
    type=click.IntRange(0),
    default=0,
    help="Threads that one operation may use; 0: as many as there are cores.",
)
@click.option(
    "--tensorflow_inter_op_parallelism",
    type=click.IntRange(0),
    default=0,
    help="Operations of a model that run at once; 0: one after another in each request.",
)
@click.option("--tensorflow_session_config_file", type=FILE, help="ConfigProto in text format.")
@boolean("version", False, "Print versions and exit.")
@with_fixed_flags
def main(version: bool, **flags: Any) -> None:
    """Serve SavedModels over TensorFlow Serving's gRPC API, without Docker.

    The flags are tensorflow_model_server's, but for --bind_address and --reload_root. A flag that
    is not listed here, or that cannot be honoured, is refused. The gRPC port opens when every model
    has been loaded.
    """
    if version:
        click.echo(_versions())
        return
    if not flags["model_base_path"] and flags["model_config_file"] is None:
        raise click.UsageError("expected either --model_base_path or --model_config_file")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda number, frame: stop.set())

    # Only now, so that --help and wrong flags do not wait seconds for TensorFlow.
    import tensorflow as tf

    from serving.core.model_config import ConfigError
    from serving.errors import ServingError
    from serving.model_servers.flags import server_options
    from serving.model_servers.server import serve

    tf.get_logger().setLevel(logging.ERROR)
    try:
        serve(server_options(flags), stop)
    except ServingError as error:
        logging.shutdown()
        click.echo(f"Error: {error.code.name}: {error.message}", err=True)
        os._exit(1)  # a load that hangs must not hold up the end
    except (ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error
    # Everything is closed; TensorFlow's own teardown would take another second to free what the
    # system frees at once.
    logging.shutdown()
    os._exit(0)


def _versions() -> str:
    from importlib.metadata import version

    return (
        f"TensorFlow ModelServer: embedded, after {version('tensorflow-serving-api')}\n"
        f"TensorFlow Library: {version('tensorflow')}"
    )


if __name__ == "__main__":
    main(prog_name="python -m serving")
