"""The models to serve, read from a `tensorflow.serving.ModelServerConfig` and checked.

The config comes from `--model_config_file`, from `--model_name` and `--model_base_path`, or from a
HandleReloadConfigRequest. Error messages and codes are those of
tensorflow_serving/model_servers/server_core.cc.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

from serving.config.text_proto import ConfigError, read_text_proto
from serving.errors import invalid_argument, permission_denied

ModelServerConfig = model_server_config_pb2.ModelServerConfig
ServableVersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy
PLATFORM = "tensorflow"
URI = re.compile("[a-z][a-z0-9.+-]*://")
MAX_PATH_BYTES = 4095  # Linux's PATH_MAX without the terminating NUL


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: the name in requests.
        base_path: the directory whose integer-named children are its versions.
        version_policy: a `ServableVersionPolicy`, which selects the versions; unset: the latest.
        version_labels: version numbers by label.
    """

    name: str
    base_path: Path
    version_policy: Any = field(default_factory=ServableVersionPolicy)
    version_labels: Mapping[str, int] = field(default_factory=dict)


def read_config_file(path: Path) -> Any:
    """Read a model config file into a `ModelServerConfig`.

    Raises:
        ConfigError: it cannot be read or parsed, or has no list of models.
    """
    config = read_text_proto(path, ModelServerConfig(), "--model_config_file")
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError(f"--model_config_file {path}: expected a model_config_list")
    return config


def single_model_config(name: str, base_path: Path) -> Any:
    """Return the `ModelServerConfig` of one model."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform=PLATFORM
    )
    return config


def parse_model_configs(
    config: Any, root: Path | None = None, served_names: Collection[str] = ()
) -> list[ModelConfig]:
    """Check a `ModelServerConfig` and return its models; see also `check_platforms`.

    Args:
        config: the `ModelServerConfig`.
        root: the directory that must contain the resolved base paths; None: anywhere.
        served_names: names of the models that are already served.

    Raises:
        ServingError: an entry is invalid.
    """
    entries = config.model_config_list.config
    _check_names(entries)
    for entry in entries:
        path = local_path(entry.base_path)
        # No path contains a NUL; listing such a base path would fail on each poll.
        if not path.startswith("/") or "\0" in path:
            kind = "a local path" if URI.match(path) else "an absolute path or URI"
            raise invalid_argument(
                f"Expected model {entry.name} to have {kind}; got base_path()={entry.base_path}"
            )
        if root is not None and not _is_below(root, path):
            raise permission_denied(
                f"Expected model {entry.name} to have a base path below {root} (--reload_root); "
                f"got base_path()={entry.base_path}"
            )
    for entry in entries:
        if entry.name in served_names and (platform := _platform(entry)) != PLATFORM:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {entry.name} platform was "
                f"{PLATFORM} and new platform requested is {platform}"
            )
    return [
        ModelConfig(
            name=entry.name,
            base_path=Path(local_path(entry.base_path)),
            version_policy=entry.model_version_policy,
            version_labels=dict(entry.version_labels),
        )
        for entry in entries
    ]


def check_platforms(config: Any) -> None:
    """Check the platforms and logging configs in a `ModelServerConfig`.

    TensorFlow Serving checks them last.

    Raises:
        ServingError: INVALID_ARGUMENT, a platform is not supported, or an entry has a logging
            config.
    """
    entries = config.model_config_list.config
    for entry in entries:
        if (platform := _platform(entry)) != PLATFORM:
            raise invalid_argument(f"Model {entry.name} requests unsupported platform {platform}")
    if any(entry.HasField("logging_config") for entry in entries):
        # TensorFlow Serving's open-source build has no request logger either.
        raise invalid_argument("No request-logger-creator provided.")


def local_path(base_path: str) -> str:
    """Return a base path without `file://`; other schemes are kept."""
    return base_path.removeprefix("file://")


def _is_below(root: Path, base_path: str) -> bool:
    # Longer paths cannot exist, and resolving them would follow links at each step.
    if len(os.fsencode(base_path)) > MAX_PATH_BYTES:
        return False
    try:
        return Path(base_path).resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return False  # circular links


def _check_names(entries: Sequence[Any]) -> None:
    seen = set()
    for entry in entries:
        if entry.name in seen:
            raise invalid_argument(
                f"Illegal to list model {entry.name} multiple times in config list"
            )
        seen.add(entry.name)


def _platform(entry: Any) -> str:
    platform: str = entry.model_platform
    if entry.model_type == model_server_config_pb2.MODEL_TYPE_UNSPECIFIED:
        if not platform:
            raise invalid_argument(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform."
            )
        return platform
    if platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform."
        )
    if entry.model_type != model_server_config_pb2.TENSORFLOW:
        raise invalid_argument(
            f"ModelServerConfig::model_type choice {entry.model_type} not supported."
        )
    return PLATFORM
