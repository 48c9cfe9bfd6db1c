"""The command-line flags with their types; without TensorFlow, so that `--help` is fast."""

# ruff: noqa: RUF009 - `_flag` returns a `dataclasses.field`

from __future__ import annotations

import os
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

PORT = click.IntRange(0, 65535)
# Ranges of TensorFlow Serving's int32 and int64 flags.
COUNT = click.IntRange(0, 2**31 - 1)
POSITIVE = click.IntRange(1, 2**31 - 1)
INT64 = click.IntRange(-(2**63), 2**63 - 1)


class _File(click.Path):
    """A file; an empty path means none, for scripts with unset variables."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) if value else None


FILE = _File(dir_okay=False, path_type=Path)

# Unsupported flags of TensorFlow Serving, with the reason.
UNSUPPORTED = {
    "use_alts_credentials": "ALTS works only between Google's own machines",
    "platform_config_file": "this server supports only SavedModels",
    "per_process_gpu_memory_fraction": "this server computes on the CPU",
    "prefer_tflite_model": "this server has no TensorFlow Lite",
    "num_tflite_pools": "this server has no TensorFlow Lite",
    "num_tflite_interpreters_per_pool": "this server has no TensorFlow Lite",
    "enable_profiler": "this server has no profiler service",
    "thread_pool_factory_config_file": "this server has its own thread pools",
    "total_model_memory_limit_bytes": "this server does not estimate a model's memory",
    "xla_cpu_compilation_enabled": "set TF_XLA_FLAGS in the environment instead",
    "xla_gpu_compilation_enabled": "this server computes on the CPU",
    "mixed_precision": "this server does not convert models",
    "skip_initialize_tpu": "this server computes on the CPU",
}
# Defaults of unsupported flags other than false and 0.
UNSUPPORTED_DEFAULTS = {"num_tflite_interpreters_per_pool": "1"}
# Flags of TensorFlow Serving that are always on.
ALWAYS_ON = {
    "enable_grpc_healthcheck_service": "health checks are always enabled",
    "remove_unused_fields_from_bundle_metagraph": "only a graph's signatures are kept in memory",
    "flush_filesystem_caches": "files are not kept open; the operating system caches them",
}


def _flag(default: Any, text: str, kind: Any = None, **settings: Any) -> Any:
    """Return a dataclass field that becomes a click option."""
    return field(default=default, metadata={"help": text, "type": kind, **settings})


@dataclass(frozen=True)
class Flags:
    """The values of the supported flags.

    They are tensorflow_model_server's, plus bind_address, reload_root and load_timeout_seconds.
    """

    port: int = _flag(
        8500, "gRPC port; 0: chosen by the system, or no port if --grpc_socket_path is set.", PORT
    )
    bind_address: str = _flag(
        "0.0.0.0",
        "IP address or host name to listen on; the HTTP port uses only the first address.",
    )
    grpc_socket_path: str = _flag("", "UNIX socket for gRPC.")
    rest_api_port: int = _flag(
        0, "HTTP port for health checks (GET /v1/models/NAME) and metrics; 0: none.", PORT
    )
    rest_api_num_threads: int = _flag(
        4 * (os.cpu_count() or 1), "Maximum concurrent requests on --rest_api_port.", POSITIVE
    )
    rest_api_timeout_in_ms: int = _flag(
        30_000,
        "Idle timeout of --rest_api_port connections, rounded down to whole seconds from 1 to 5.",
        POSITIVE,
    )
    rest_api_enable_cors_support: bool = _flag(
        False, "Allow pages from other origins to read --rest_api_port."
    )
    model_name: str = _flag("default", "Name of the model at --model_base_path.")
    model_base_path: str = _flag(
        "", "Directory whose integer-named children are the model's versions."
    )
    model_config_file: Path | None = _flag(
        None, "ModelServerConfig in text format; it overrides the two flags above.", FILE
    )
    model_config_file_poll_wait_seconds: float = _flag(
        0.0, "Seconds between reads of --model_config_file; 0: one read.", click.FloatRange(0)
    )
    reload_root: Path | None = _flag(
        None,
        "Directory below which HandleReloadConfigRequest may set base paths.  [default: anywhere]",
        click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
        envvar="SERVING_RELOAD_ROOT",
        show_envvar=True,
    )
    file_system_poll_wait_seconds: float = _flag(
        1.0,
        "Seconds between listings of the versions; 0: only at startup and on reloads; "
        "negative: never.",
    )
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Allow new labels for versions that are not available."
    )
    max_num_load_retries: int = _flag(5, "Retries of a failed load.", COUNT)
    load_retry_interval_micros: int = _flag(60_000_000, "Microseconds between load retries.", INT64)
    load_timeout_seconds: float = _flag(
        600.0,
        "Seconds after which a load attempt fails, so that other versions can load.",
        click.FloatRange(0, min_open=True),
    )
    num_load_threads: int = _flag(0, "Maximum concurrent loads; 0: one.", COUNT)
    num_unload_threads: int = _flag(0, "Maximum concurrent unloads; 0: one.", COUNT)
    enable_model_warmup: bool = _flag(
        True, "Run a version's warm-up requests before it is available."
    )
    num_request_iterations_for_warmup: int = _flag(
        0, "Runs of each warm-up request; 0: one.", COUNT
    )
    saved_model_tags: str = _flag("serve", "Tags of the graph to load.")
    enable_batching: bool = _flag(False, "Compute concurrent requests in batches.")
    batching_parameters_file: Path | None = _flag(None, "BatchingParameters in text format.", FILE)
    enable_per_model_batching_parameters: bool = _flag(
        False, "Read batching parameters from batching_params.pbtxt in each version's directory."
    )
    monitoring_config_file: Path | None = _flag(
        None, "MonitoringConfig in text format; --rest_api_port serves the metrics.", FILE
    )
    ssl_config_file: Path | None = _flag(None, "SSLConfig in text format.", FILE)
    grpc_max_threads: int | None = _flag(
        None,
        "Maximum concurrent requests.  "
        "[default: the number of cores, at least 4; 256 with batching]",
        POSITIVE,
    )
    grpc_channel_arguments: str = _flag(
        "", "Arguments of the gRPC server, such as grpc.max_connection_age_ms=2000,name=value."
    )
    enable_serialization_as_tensor_content: bool = _flag(
        False, "Send the tensors of a PredictResponse as bytes."
    )
    enable_signature_method_name_check: bool = _flag(
        False, "Reject signatures that were exported for another method."
    )
    tensorflow_session_parallelism: int = _flag(0, "Value of both of the next two flags.", COUNT)
    tensorflow_intra_op_parallelism: int = _flag(
        0, "Maximum threads per operation; 0: the number of cores.", COUNT
    )
    tensorflow_inter_op_parallelism: int = _flag(
        0,
        "Maximum concurrent operations across all models; 0: one at a time in each request.",
        COUNT,
    )
    tensorflow_session_config_file: Path | None = _flag(None, "ConfigProto in text format.", FILE)
    version: bool = _flag(False, "Print versions and exit.")

    def __post_init__(self) -> None:
        """Check flags that depend on one another.

        Raises:
            click.UsageError: neither a base path nor a config file is given.
        """
        if not (self.version or self.model_base_path or self.model_config_file):
            raise click.UsageError("expected either --model_base_path or --model_config_file")


def with_flags(run: Callable[[Flags], None]) -> click.Command:
    """Return the click command that calls `run` with the flags."""

    @click.command(help=run.__doc__, context_settings={"show_default": True})
    def command(**values: Any) -> None:
        run(Flags(**values))

    types = typing.get_type_hints(Flags)
    for flag in fields(Flags):
        settings = {**flag.metadata, "default": flag.default}
        if types[flag.name] is bool:
            # Accept --flag, --flag=true and --flag=false.
            settings |= {"type": bool, "is_flag": False, "flag_value": "true"}
        elif settings["type"] is None:
            settings["type"] = types[flag.name]
        command.params.append(click.Option([f"--{flag.name}"], **settings))
    for name in UNSUPPORTED | ALWAYS_ON:
        command.params.append(
            click.Option(
                [f"--{name}"],
                is_flag=False,
                flag_value="true",
                hidden=True,
                callback=_check_fixed,
                expose_value=False,
            )
        )
    return command


def _check_fixed(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Reject any value of a fixed flag except the fixed one."""
    name = str(parameter.name)
    disabled = ("false", "0", "0.0", "", UNSUPPORTED_DEFAULTS.get(name))
    is_enabled = value is not None and value.lower() not in disabled
    if value is not None and is_enabled is not (name in ALWAYS_ON):
        raise click.UsageError(f"--{name}: {(ALWAYS_ON | UNSUPPORTED)[name]}")
