"""Which models to serve: `--model_name` and `--model_base_path`, or a `--model_config_file`.

The file is a `tensorflow.serving.ModelServerConfig` in protobuf's text format, as
`tensorflow_model_server` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

ServableVersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy


class ConfigError(ValueError):
    """The configuration cannot be used; the message says where and why."""


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: what clients call it.
        base_path: the directory whose integer-named children are its versions.
        version_policy: which of them to serve, a `ServableVersionPolicy`; unset, the latest.
        version_labels: version number by label.
    """

    name: str
    base_path: Path
    version_policy: Any = field(default_factory=ServableVersionPolicy)
    version_labels: Mapping[str, int] = field(default_factory=dict)


def read_config_file(path: Path) -> list[ModelConfig]:
    """Read a model config file.

    Raises:
        ConfigError: it cannot be read or parsed, or asks for what cannot be done.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigError(f"--model_config_file {path}: {error}") from error
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError(f"--model_config_file {path}: expected a model_config_list")
    models = [_model(entry, path) for entry in config.model_config_list.config]
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--model_config_file {path}: model {twice[0]} is listed twice")
    return models


def _model(entry: Any, path: Path) -> ModelConfig:
    if not entry.name or not entry.base_path:
        raise ConfigError(
            f"--model_config_file {path}: expected every config to have a name and a base_path, "
            f"got name {entry.name!r}, base_path {entry.base_path!r}"
        )
    if entry.model_platform not in ("", "tensorflow"):
        raise ConfigError(
            f"--model_config_file {path}: model {entry.name}: expected model_platform "
            f"'tensorflow', got {entry.model_platform!r}"
        )
    return ModelConfig(
        name=entry.name,
        base_path=Path(entry.base_path),
        version_policy=entry.model_version_policy,
        version_labels=dict(entry.version_labels),
    )
