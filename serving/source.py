"""The file system source: which versions of a model its base path asks to be served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serving.model_config import ModelConfig

VERSION_NAME = re.compile(r"[0-9]+", re.ASCII)
LARGEST_VERSION = 2**63 - 1


def aspired_versions(model: ModelConfig) -> dict[int, Path]:
    """Return the paths of the versions that the model's policy selects, by number.

    As in TensorFlow Serving, a version is any child whose whole name is a decimal number, so that
    a directory that is still being written can hide behind any other name.

    Raises:
        OSError: the base path cannot be listed.
    """
    found = {
        int(child.name): child
        for child in sorted(model.base_path.iterdir())
        if VERSION_NAME.fullmatch(child.name) and int(child.name) <= LARGEST_VERSION
    }
    return {version: found[version] for version in _selected(sorted(found), model.version_policy)}


def _selected(versions: list[int], policy: Any) -> list[int]:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return versions
    if choice == "specific":
        return [version for version in versions if version in policy.specific.versions]
    return versions[-(policy.latest.num_versions or 1) :]
