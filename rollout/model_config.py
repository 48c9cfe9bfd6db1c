"""TensorFlow Serving's model config file, in protobuf's text format.

The file is only written, so a short formatter suffices; no message classes are needed.
"""

from __future__ import annotations

from collections.abc import Iterable

from rollout.state import Rollout

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def model_config(rollouts: Iterable[Rollout]) -> str:
    """Return the content of a file that makes servers load the versions of these models."""
    entries = "".join(map(_entry, sorted(rollouts, key=lambda rollout: rollout.model)))
    return f"model_config_list {{\n{entries}}}\n"


def _entry(rollout: Rollout) -> str:
    versions = " ".join(f"versions: {version}" for version in rollout.versions)
    labels = "".join(
        f"    version_labels {{ key: {_quoted(label)} value: {version} }}\n"
        for label, version in sorted(rollout.labels.items())
    )
    return (
        "  config {\n"
        f"    name: {_quoted(rollout.model)}\n"
        f"    base_path: {_quoted(rollout.base_path)}\n"
        '    model_platform: "tensorflow"\n'
        f"    model_version_policy {{ specific {{ {versions} }} }}\n"
        f"{labels}"
        "  }\n"
    )


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'
