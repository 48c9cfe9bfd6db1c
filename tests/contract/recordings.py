"""The recordings in `corpus/`: requests to TensorFlow Serving, and its responses."""

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
    """A server's configuration, with its files written.

    Attributes:
        flags: for its command line.
        models: the names of the models it serves.
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


def gather_models(folder: Path) -> None:
    """Write every model that the recordings name into a folder."""
    # Imported late: listing the cases does not need TensorFlow.
    from tests.contract.tf1_models import export_all

    shutil.copytree(CORPUS / "models", folder, dirs_exist_ok=True)
    export_all(folder)


def set_up(name: str, models: Path, folder: Path) -> Setup:
    """Write the files of a server's configuration into a folder.

    Args:
        name: of the configuration.
        models: the folder of all models.
        folder: where the files go.
    """
    setup = json.loads((CORPUS / "servers.json").read_text(encoding="utf-8"))[name]
    places = {"models": models, "dir": folder}
    texts = {file: filled(text, places) for file, text in setup["files"].items()}
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    flags = [filled(flag, places) for flag in setup["flags"]]
    names = re.findall(r'(?:\bname: "|--model_name=)(\w+)', " ".join([*texts.values(), *flags]))
    return Setup(flags, names)


def filled(text: str, places: Mapping[str, Path]) -> str:
    """Replace names in braces by their paths."""
    for name, place in places.items():
        text = text.replace("{" + name + "}", str(place))
    return text
