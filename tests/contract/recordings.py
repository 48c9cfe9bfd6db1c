"""The recordings in `corpus/`: requests to TensorFlow Serving and its responses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"

Case = Mapping[str, Any]


@dataclass(frozen=True)
class Setup:
    """A server's configuration, whose files have been written.

    Attributes:
        flags: command-line flags of the server.
        models: names of the models that it serves.
    """

    flags: list[str]
    models: list[str]


def read(kind: str) -> list[Case]:
    """Return the cases of a kind: grpc, rest or lifecycle."""
    with (CORPUS / f"{kind}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def differences() -> dict[str, Case]:
    """Return the intended differences of our server, by id."""
    return tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8"))


def write_models(folder: Path) -> None:
    """Write all models that the recordings use into a folder."""
    # Imported here because listing the cases does not need TensorFlow.
    from tests.contract.tf1_models import export_all

    shutil.copytree(CORPUS / "models", folder, dirs_exist_ok=True)
    export_all(folder)


def set_up(name: str, models: Path, folder: Path) -> Setup:
    """Write the files of a server's configuration into a folder.

    Args:
        name: name of the configuration.
        models: folder of all models.
        folder: folder for the files.
    """
    setup = json.loads((CORPUS / "servers.json").read_text(encoding="utf-8"))[name]
    paths = {"models": models, "dir": folder}
    texts = {file: fill(text, paths) for file, text in setup["files"].items()}
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    flags = [fill(flag, paths) for flag in setup["flags"]]
    names = re.findall(r'(?:\bname: "|--model_name=)(\w+)', " ".join([*texts.values(), *flags]))
    return Setup(flags, names)


def fill(text: str, paths: Mapping[str, Path]) -> str:
    """Replace names in braces with their paths."""
    for name, path in paths.items():
        text = text.replace("{" + name + "}", str(path))
    return text
