"""What the flags say, and the files that they name: `ServerOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from tensorflow.core.protobuf import config_pb2

from serving.batching.scheduler import BatchingParameters, batch_threads
from serving.core.manager import ManagerOptions
from serving.core.model_config import (
    ConfigError,
    local_path,
    read_config_file,
    read_text_proto,
    single_model_config,
)
from serving.model_servers.config_messages import (
    BatchingParameters as BatchingParametersMessage,
)
from serving.model_servers.config_messages import MonitoringConfig, SSLConfig
from serving.model_servers.http_server import HttpOptions
from serving.model_servers.monitoring import DEFAULT_PATH
from serving.model_servers.server import ServerOptions
from serving.servables.servable import LoadOptions


def server_options(flags: Mapping[str, Any]) -> ServerOptions:
    """Read the flags.

    Raises:
        ConfigError: a file cannot be read, or flags contradict one another.
        ServingError: what a file says cannot be done.
    """
    batching = _batching(flags)
    batching_per_model = flags["enable_per_model_batching_parameters"]
    return ServerOptions(
        config=_models(flags),
        config_file=flags["model_config_file"],
        config_poll_seconds=flags["model_config_file_poll_wait_seconds"],
        reload_root=flags["reload_root"],
        poll_wait_seconds=flags["file_system_poll_wait_seconds"],
        bind_address=flags["bind_address"],
        port=flags["port"],
        socket_path=flags["grpc_socket_path"],
        credentials=_credentials(flags["ssl_config_file"]),
        channel_options=_channel_options(flags["grpc_channel_arguments"]),
        threads=flags["grpc_max_threads"] or 0,
        http=_http(flags),
        load=_load(flags),
        manager=ManagerOptions(
            max_num_load_retries=flags["max_num_load_retries"],
            load_retry_interval=flags["load_retry_interval_micros"] / 1e6,
            num_load_threads=flags["num_load_threads"] or 1,
            num_unload_threads=flags["num_unload_threads"] or 1,
        ),
        warmup_iterations=(flags["num_request_iterations_for_warmup"] or 1)
        if flags["enable_model_warmup"]
        else 0,
        batching_threads=batch_threads(batching) if batching is not None else 0,
        batching=BatchingParameters.of(batching)
        if batching is not None and not batching_per_model
        else None,
        allow_labels_for_unavailable=flags["allow_version_labels_for_unavailable_models"],
        as_content=flags["enable_serialization_as_tensor_content"],
        check_method=flags["enable_signature_method_name_check"],
    )


def _models(flags: Mapping[str, Any]) -> Any:
    if flags["model_config_file"] is not None:
        return read_config_file(flags["model_config_file"])
    # The original takes absolute paths only; on a command line the others have a meaning too.
    path = Path(local_path(flags["model_base_path"])).absolute()
    return single_model_config(flags["model_name"], path)


def _batching(flags: Mapping[str, Any]) -> Any:
    """Return the `BatchingParameters` message, None if requests are not put into batches."""
    file = flags["batching_parameters_file"]
    if flags["enable_batching"]:
        message = BatchingParametersMessage()
        return read_text_proto(file, message, "--batching_parameters_file") if file else message
    for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
        if flags[name]:
            raise ConfigError(f"--{name} is set without --enable_batching")
    return None


def _credentials(file: Path | None) -> grpc.ServerCredentials | None:
    if file is None:
        return None
    config = read_text_proto(file, SSLConfig(), "--ssl_config_file")
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise ConfigError(f"--ssl_config_file {file}: expected {name} in PEM, got nothing")
    if config.client_verify and not config.custom_ca:
        raise ConfigError(
            f"--ssl_config_file {file}: client_verify needs custom_ca, the authorities of clients"
        )
    credentials = grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
    try:  # gRPC reads them only when it listens, and does not say what is wrong
        grpc.server(ThreadPoolExecutor(1)).add_secure_port("127.0.0.1:0", credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"--ssl_config_file {file}: server_key and server_cert, or custom_ca, are no key and "
            "certificates in PEM that belong together"
        ) from error
    return credentials


def _channel_options(text: str) -> tuple[tuple[str, int | str], ...]:
    options: list[tuple[str, int | str]] = []
    for argument in filter(None, text.split(",")):
        name, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"--grpc_channel_arguments: expected name=value, got {argument!r}")
        options.append((name, int(value) if _is_int32(value) else value))
    return tuple(options)


def _is_int32(text: str) -> bool:
    try:
        return -(2**31) <= int(text) < 2**31
    except ValueError:
        return False


def _http(flags: Mapping[str, Any]) -> HttpOptions | None:
    metrics_path = ""
    file = flags["monitoring_config_file"]
    if file is not None:
        config = read_text_proto(file, MonitoringConfig(), "--monitoring_config_file")
        if config.prometheus_config.enable:
            metrics_path = config.prometheus_config.path or DEFAULT_PATH
    port = flags["rest_api_port"]
    if not port:
        if metrics_path:
            raise ConfigError("--monitoring_config_file needs --rest_api_port, where metrics are")
        return None
    if port == flags["port"]:
        raise ConfigError(f"--rest_api_port and --port are both {port}")
    return HttpOptions(
        bind_address=flags["bind_address"],
        port=port,
        threads=flags["rest_api_num_threads"],
        timeout=flags["rest_api_timeout_in_ms"] / 1000,
        cors=flags["rest_api_enable_cors_support"],
        metrics_path=metrics_path,
    )


def _load(flags: Mapping[str, Any]) -> LoadOptions:
    config = config_pb2.ConfigProto()
    if flags["tensorflow_session_config_file"] is not None:
        file = flags["tensorflow_session_config_file"]
        read_text_proto(file, config, "--tensorflow_session_config_file")
    both = flags["tensorflow_session_parallelism"]
    intra, inter = (flags[f"tensorflow_{kind}_op_parallelism"] for kind in ("intra", "inter"))
    if both and (intra or inter):
        raise ConfigError(
            "--tensorflow_session_parallelism stands for both --tensorflow_intra_op_parallelism "
            "and --tensorflow_inter_op_parallelism: expected either it or them"
        )
    if intra or both:
        config.intra_op_parallelism_threads = intra or both
    if inter or both:
        config.inter_op_parallelism_threads = inter or both
    return LoadOptions(
        tags=tuple(filter(None, flags["saved_model_tags"].split(","))),
        session_config=config,
        use_inter_op_pool=config.inter_op_parallelism_threads > 0,
    )
