"""Every command in the README does what the README says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.settings import Settings
from tests.conftest import Starter
from tests.e2e.test_make_run import make_run, stop_with_ctrl_c
from tests.support.processes import ROOT, free_port

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(
    r"^## (?P<section>[^\n]+)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
# Run from within itself it would not end.
THIS_VERY_TEST = "make test"
EMBEDDED_TAG = "readme-test"


def blocks(language: str) -> dict[str, list[str]]:
    """Return the code in a language, by section."""
    found: dict[str, list[str]] = {}
    section = ""
    for match in BLOCK.finditer(README):
        if match["section"]:
            section = match["section"]
        elif match["language"] == language:
            found.setdefault(section, []).append(match["code"])
    return found


def commands(section: str) -> list[str]:
    return [line for code in blocks("sh")[section] for line in code.splitlines()]


@dataclass
class Shell:
    """A checkout in a directory of its own, with ports of its own for the README's."""

    folder: Path
    environment: dict[str, str]

    def run(self, command: str) -> str:
        for name, default in (("PORT", "8080"), ("SERVING_PORT", "8500")):
            command = command.replace(f"127.0.0.1:{default}", f"127.0.0.1:{self.environment[name]}")
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert '"error":"' not in done.stdout.replace('"error":""', ""), f"{command}\n{done.stdout}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path, models: Path) -> Shell:
    folder = tmp_path / "checkout"
    leave_out = shutil.ignore_patterns(".git", ".venv", ".run", "models", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=leave_out)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(models, folder / "models")
    ports = {"PORT": str(free_port()), "SERVING_PORT": str(free_port())}
    return Shell(folder, {**ports, "CLIENT_SERVER": f"127.0.0.1:{ports['SERVING_PORT']}"})


def test_every_command_is_run_by_a_test_here() -> None:
    assert set(blocks("sh")) == {
        "Start", "Ask it", "Your own table", "With Docker", "Bring your own model", "Develop",
    }  # fmt: skip
    assert commands("Start") == ["make run", THIS_VERY_TEST]


@pytest.fixture
def running(shell: Shell, starter: Starter) -> Iterator[Shell]:
    made, _ = make_run(starter, shell.folder / "models", **shell.environment)
    yield shell
    stop_with_ctrl_c(made)


def test_asking(running: Shell) -> None:
    printed = [running.run(command) for command in commands("Ask it")]
    (shown,) = blocks("json")["Ask it"]
    predictions, expected = (json.loads(text) for text in (printed[0], shown))
    assert predictions["version"] == expected["version"]
    for have, want in zip(predictions["predictions"], expected["predictions"], strict=True):
        assert have["label"] == want["label"]
        assert have["probability"] == pytest.approx(want["probability"], rel=1e-3)
    fitted, listed, verified, rolled_back, _ = printed[-5:]
    assert fitted.strip().endswith("breast_cancer/2")
    assert [line.split()[0] for line in listed.splitlines()] == ["1", "2"]
    assert verified.count("files as published") == 2
    assert rolled_back.strip().endswith("breast_cancer/3")

    (code,) = blocks("python")["Ask it"]
    address = running.environment["CLIENT_SERVER"]
    program = running.folder / "ask.py"
    program.write_text(code.replace("127.0.0.1:8500", address))
    assert re.match(r"\d \[0\.\d+\]\n", running.run(".venv/bin/python ask.py"))


def test_training_on_a_table_of_one_s_own(shell: Shell, starter: Starter) -> None:
    fit, serve, ask = commands("Your own table")
    assert shell.run(fit).strip().endswith("models/churn/1")
    assert (shell.folder / "models" / "churn" / "1" / "report.html").exists()
    assert serve == "make run MODEL=churn"
    made, _ = make_run(starter, shell.folder / "models", MODEL="churn", **shell.environment)
    (prediction,) = json.loads(shell.run(ask))["predictions"]
    assert prediction["label"] == "yes"
    stop_with_ctrl_c(made)


def test_bringing_a_model(shell: Shell, starter: Starter) -> None:
    export, serve, ask, *others = commands("Bring your own model")
    shell.run(export)
    assert serve == "make run MODEL=half_plus_two"
    made, _ = make_run(starter, shell.folder / "models", MODEL="half_plus_two", **shell.environment)
    assert json.loads(shell.run(ask))["predictions"] == [2.5, 3.0, 4.5]
    stop_with_ctrl_c(made)
    for command in others:
        assert shell.run(command)


def test_developing(shell: Shell) -> None:
    for command in commands("Develop"):
        assert shell.run(command)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("docker_engine")
def test_docker(shell: Shell, starter: Starter) -> None:
    # Where the image of TensorFlow Serving cannot be pulled, ours goes by its name.
    shell.run("docker compose -f docker-compose.yml -f docker-compose.embedded.yml build")
    stand_in = f"tensorflow/serving:{EMBEDDED_TAG}"
    shell.run(f"docker tag logreg-serving/serving {stand_in}")
    shell.environment |= {
        "TF_SERVING_VERSION": EMBEDDED_TAG,
        "COMPOSE_PROJECT_NAME": f"readme-{shell.environment['PORT']}",
    }
    first, *others = commands("With Docker")
    assert first == "make run SERVER=docker"
    try:
        made, _ = make_run(
            starter, shell.folder / "models", SERVER="docker", TF_SERVING_VERSION=EMBEDDED_TAG
        )
        stop_with_ctrl_c(made)
        for command in others:
            shell.run(command)
    finally:
        shell.run("docker compose down --volumes")
        shell.run(f"docker rmi {stand_in}")


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(r"^\| `CLIENT_(\w+)` \| `(.+?)` \| (.+?) \|$", README, re.M)
    assert rows == [
        (name.upper(), str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]


@pytest.mark.parametrize(
    ("page", "benchmark", "row"),
    [
        ("README.md", "imports", r"\| `(?:from|import) .* MB \|"),
        ("docs/course.md", "course", r"\|.* 0\.\d+ \| .* to .* \|"),
        ("README.md", "training", r"\|.* s \| .* GB \| 0\.\d+ \|"),
        ("docs/training.md", "training", r"\|.* s \| .* GB \| 0\.\d+ \|"),
    ],
)
def test_the_numbers_are_those_of_the_benchmark(page: str, benchmark: str, row: str) -> None:
    measured = (ROOT / "benchmarks" / "results" / f"{benchmark}.md").read_text()
    shown = re.findall(rf"^ *({row})$", (ROOT / page).read_text(), re.M)
    assert len(shown) >= 2
    for line in shown:
        assert line in measured


@pytest.mark.parametrize(
    "page", ["README.md", "docs/course.md", "docs/training.md", "docs/client.md", "docs/serving.md"]
)
def test_what_it_links_to_is_there(page: str) -> None:
    targets = re.findall(r"\]\(([\w./-]+)\)", (ROOT / page).read_text())
    assert targets
    for target in targets:
        assert (ROOT / page).parent.joinpath(target).exists(), target
