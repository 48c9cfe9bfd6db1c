"""Server options, read from the flags and the files that they name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any

import grpc
from tensorflow.core.protobuf import config_pb2

from serving.batching.parameters import BatchingOptions
from serving.config import messages_pb2
from serving.config.text_proto import ConfigError, read_text_proto
from serving.core.manager import ManagerOptions
from serving.core.model_config import URI, local_path, read_config_file, single_model_config
from serving.model_servers.flags import Flags
from serving.model_servers.http_server import HttpOptions
from serving.model_servers.monitoring import DEFAULT_PATH
from serving.servables.loader import LoaderOptions
from serving.servables.servable import ResponseOptions

ChannelArguments = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True)
class GrpcOptions:
    """Options of the gRPC port.

    Attributes:
        bind_address: the address to listen on.
        port: 0 lets the system choose.
        socket_path: a UNIX socket to listen on too; with port 0, it is the only address.
        credentials: certificates for TLS; None: no TLS.
        channel_arguments: arguments of gRPC itself.
        max_threads: maximum number of concurrent requests; None: see `server.MIN_THREADS`.
    """

    bind_address: str
    port: int
    socket_path: str
    credentials: grpc.ServerCredentials | None
    channel_arguments: ChannelArguments
    max_threads: int | None


@dataclass(frozen=True)
class ServerOptions:
    """All validated options.

    Attributes:
        config: the first `ModelServerConfig`.
        config_file: the file of `config`; None: no file.
        config_poll_seconds: interval for rereading the file; 0: never.
        reload_root: the directory that must contain a reload's base paths; None: anywhere.
        poll_wait_seconds: interval for listing base paths; see `Source`.
        grpc: options of the gRPC port.
        http: options of the HTTP port; None: no HTTP port.
        loader: options for loading one version.
        manager: limits and retries for loading and unloading all versions.
        allow_labels_for_unavailable: see `ServerCore`.
    """

    config: Any
    config_file: Path | None
    config_poll_seconds: float
    reload_root: Path | None
    poll_wait_seconds: float
    grpc: GrpcOptions
    http: HttpOptions | None
    loader: LoaderOptions
    manager: ManagerOptions
    allow_labels_for_unavailable: bool

    @classmethod
    def of(cls, flags: Flags) -> ServerOptions:
        """Read the flags and their files.

        Raises:
            ConfigError: a file cannot be read, or a flag is invalid or contradicts another.
            ServingError: a file's content is invalid.
        """
        return cls(
            config=_read_config(flags),
            config_file=flags.model_config_file,
            config_poll_seconds=_cap_wait(flags.model_config_file_poll_wait_seconds),
            reload_root=flags.reload_root,
            poll_wait_seconds=_cap_wait(flags.file_system_poll_wait_seconds),
            grpc=GrpcOptions(
                bind_address=flags.bind_address,
                port=flags.port,
                socket_path=flags.grpc_socket_path,
                credentials=_read_credentials(flags.ssl_config_file),
                channel_arguments=_parse_channel_arguments(flags.grpc_channel_arguments),
                max_threads=flags.grpc_max_threads,
            ),
            http=_http_options(flags),
            loader=_loader_options(flags),
            manager=ManagerOptions(
                max_num_load_retries=flags.max_num_load_retries,
                load_retry_interval=_cap_wait(flags.load_retry_interval_micros / 1e6),
                load_timeout=_cap_wait(flags.load_timeout_seconds),
                num_load_threads=flags.num_load_threads or 1,
                num_unload_threads=flags.num_unload_threads or 1,
            ),
            allow_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        )


def _cap_wait(seconds: float) -> float:
    """Cap a duration at the longest that a thread can wait, 292 years; `inf` means never."""
    return min(TIMEOUT_MAX, seconds)


def _read_config(flags: Flags) -> Any:
    if flags.model_config_file is not None:
        return read_config_file(flags.model_config_file)
    path = local_path(flags.model_base_path)
    if URI.match(path):
        raise ConfigError(f"--model_base_path: expected a local path, got {path}")
    # TensorFlow Serving requires absolute paths; this command line also takes relative ones.
    return single_model_config(flags.model_name, Path(path).absolute())


def _batching_options(flags: Flags) -> BatchingOptions | None:
    file = flags.batching_parameters_file
    if flags.enable_batching:
        message = messages_pb2.BatchingParameters()
        if file is not None:
            read_text_proto(file, message, "--batching_parameters_file")
        return BatchingOptions.of(message, per_model=flags.enable_per_model_batching_parameters)
    for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
        if getattr(flags, name):
            raise ConfigError(f"--{name} is set without --enable_batching")
    return None


def _read_credentials(file: Path | None) -> grpc.ServerCredentials | None:
    if file is None:
        return None
    config = read_text_proto(file, messages_pb2.SSLConfig(), "--ssl_config_file", secret=True)
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise ConfigError(f"--ssl_config_file {file}: expected {name} in PEM, got nothing")
    if config.client_verify and not config.custom_ca:
        raise ConfigError(
            f"--ssl_config_file {file}: client_verify needs custom_ca to verify clients"
        )
    credentials = grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
    try:  # gRPC checks them only when it listens and does not report the reason
        grpc.server(ThreadPoolExecutor(1)).add_secure_port("127.0.0.1:0", credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"--ssl_config_file {file}: expected a server_key and a server_cert in PEM that match, "
            "and custom_ca in PEM if it is set; gRPC rejects them"
        ) from error
    return credentials


def _parse_channel_arguments(text: str) -> ChannelArguments:
    arguments: list[tuple[str, int | str]] = []
    for argument in filter(None, text.split(",")):
        name, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"--grpc_channel_arguments: expected name=value, got {argument!r}")
        arguments.append((name, int(value) if _is_int32(value) else value))
    return tuple(arguments)


def _is_int32(text: str) -> bool:
    try:
        return -(2**31) <= int(text) < 2**31
    except ValueError:
        return False


def _http_options(flags: Flags) -> HttpOptions | None:
    metrics_path = ""
    file = flags.monitoring_config_file
    if file is not None:
        message = messages_pb2.MonitoringConfig()
        config = read_text_proto(file, message, "--monitoring_config_file").prometheus_config
        if config.enable:
            metrics_path = config.path or DEFAULT_PATH
            if not metrics_path.startswith("/") or "?" in metrics_path:
                raise ConfigError(
                    f"--monitoring_config_file {file}: expected a path that begins with / and has "
                    f"no query, got {metrics_path!r}"
                )
    if not flags.rest_api_port:
        if metrics_path:
            raise ConfigError(
                "--monitoring_config_file requires --rest_api_port, which serves the metrics"
            )
        return None
    if flags.rest_api_port == flags.port:
        raise ConfigError(
            f"--rest_api_port and --port are both {flags.port}: expected different ports"
        )
    return HttpOptions(
        bind_address=flags.bind_address,
        port=flags.rest_api_port,
        threads=flags.rest_api_num_threads,
        timeout=flags.rest_api_timeout_in_ms / 1000,
        cors=flags.rest_api_enable_cors_support,
        metrics_path=metrics_path,
    )


def _loader_options(flags: Flags) -> LoaderOptions:
    config = config_pb2.ConfigProto()
    if flags.tensorflow_session_config_file is not None:
        file = flags.tensorflow_session_config_file
        read_text_proto(file, config, "--tensorflow_session_config_file")
    parallelism = flags.tensorflow_session_parallelism
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if parallelism and (intra or inter):
        raise ConfigError(
            "--tensorflow_session_parallelism sets both --tensorflow_intra_op_parallelism "
            "and --tensorflow_inter_op_parallelism; set it alone, or leave it out"
        )
    if intra or parallelism:
        config.intra_op_parallelism_threads = intra or parallelism
    if inter or parallelism:
        config.inter_op_parallelism_threads = inter or parallelism
    iterations = flags.num_request_iterations_for_warmup or 1
    return LoaderOptions(
        tags=tuple(filter(None, flags.saved_model_tags.split(","))),
        session_config=config,
        use_inter_op_pool=(
            config.inter_op_parallelism_threads > 0 or len(config.session_inter_op_thread_pool) > 0
        ),
        warmup_iterations=iterations if flags.enable_model_warmup else 0,
        batching=_batching_options(flags),
        responses=ResponseOptions(
            as_content=flags.enable_serialization_as_tensor_content,
            check_method=flags.enable_signature_method_name_check,
        ),
    )
