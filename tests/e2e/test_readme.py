"""Every command of the README, the tour and CONTRIBUTING.md works as printed."""

from __future__ import annotations

import itertools
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
from tests.e2e.test_make_run import make_run, run_printed_curl, stop_with_ctrl_c
from tests.support.processes import ROOT, free_port

DOCS = ROOT / "docs"
README, TOUR, OPERATION, CONTRIBUTING = (
    "README.md",
    "docs/tour.md",
    "docs/operation.md",
    "CONTRIBUTING.md",
)
PAGES = [
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{p.name}" for p in DOCS.glob("*.md")),
]
BLOCK = re.compile(
    r"^## (?P<section>[^\n]+)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
# Would run this test again.
RECURSIVE = ["make test"]
# `.ci/run` runs it before the tests.
RUN_BY_CI = ["make lint"]
EMBEDDED_TAG = "readme-test"


def code_blocks(page: str, language: str) -> dict[str, list[str]]:
    """Return the code blocks of a page in one language, by section."""
    by_section: dict[str, list[str]] = {}
    section = ""
    for match in BLOCK.finditer((ROOT / page).read_text()):
        if match["section"]:
            section = match["section"]
        elif match["language"] == language:
            by_section.setdefault(section, []).append(match["code"])
    return by_section


def commands(page: str, section: str) -> list[str]:
    return [line for code in code_blocks(page, "sh")[section] for line in code.splitlines()]


@dataclass
class Shell:
    """A copy of the checkout, with free ports in place of the README's."""

    folder: Path
    environment: dict[str, str]

    def run(self, command: str) -> str:
        for name, default in (("PORT", "8080"), ("SERVING_PORT", "8500")):
            command = command.replace(f"127.0.0.1:{default}", f"127.0.0.1:{self.environment[name]}")
        result = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        output = result.stdout
        assert '"error":"' not in output.replace('"error":""', ""), f"{command}\n{output}"
        return output


@pytest.fixture
def shell(tmp_path: Path, models: Path) -> Shell:
    folder = tmp_path / "checkout"
    leave_out = shutil.ignore_patterns(".git", ".venv", ".run", "models", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=leave_out)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(models, folder / "models")
    ports = {"PORT": str(free_port()), "SERVING_PORT": str(free_port())}
    return Shell(folder, {**ports, "CLIENT_SERVER": f"127.0.0.1:{ports['SERVING_PORT']}"})


def test_every_section_with_commands_is_tested() -> None:
    pages = (README, TOUR, OPERATION, CONTRIBUTING)
    sections = {page: set(code_blocks(page, "sh")) for page in pages}
    assert sections == {
        README: {"Start", "Send requests", "Your own table", "With Docker"},
        TOUR: {"Requests", "Without HTTP", "A new version", "Bring your own model"},
        OPERATION: {"Docker Compose"},
        CONTRIBUTING: {"Set up"},
    }
    assert commands(README, "Start") == ["make run", *RECURSIVE]


@pytest.mark.parametrize("page", PAGES)
def test_commands_export_their_variables(page: str) -> None:
    code = "\n".join(itertools.chain.from_iterable(code_blocks(page, "sh").values()))
    assert not re.findall(r"^[A-Z_]+=\S*$", code, re.M)


@pytest.fixture
def serving_shell(shell: Shell, starter: Starter) -> Iterator[Shell]:
    process, _ = make_run(starter, shell.folder / "models", **shell.environment)
    yield shell
    stop_with_ctrl_c(process)


def test_tour_commands_work(serving_shell: Shell) -> None:
    first, *others = commands(TOUR, "Requests")
    assert commands(README, "Send requests") == [first]
    (shown,) = code_blocks(README, "json")["Send requests"]
    assert code_blocks(TOUR, "json")["Requests"] == [shown]
    predictions, expected = (json.loads(text) for text in (serving_shell.run(first), shown))
    assert predictions["version"] == expected["version"]
    for have, want in zip(predictions["predictions"], expected["predictions"], strict=True):
        assert have["label"] == want["label"]
        assert have["probability"] == pytest.approx(want["probability"], rel=1e-3)
    for command in [*others, *commands(TOUR, "Without HTTP")]:
        assert serving_shell.run(command)

    fitted, listed, verified, rolled_back, _ = map(
        serving_shell.run, commands(TOUR, "A new version")
    )
    assert fitted.strip().endswith("breast_cancer/2")
    assert [line.split()[0] for line in listed.splitlines()] == ["1", "2"]
    assert verified.count("files as published") == 2
    assert rolled_back.strip().endswith("breast_cancer/3")

    (code,) = code_blocks(TOUR, "python")["Without HTTP"]
    address = serving_shell.environment["CLIENT_SERVER"]
    program = serving_shell.folder / "predict.py"
    program.write_text(code.replace("127.0.0.1:8500", address))
    assert re.match(r"\d \[0\.\d+\]\n", serving_shell.run(".venv/bin/python predict.py"))


def test_your_own_table_commands_work(shell: Shell, starter: Starter) -> None:
    fit, serve, predict = commands(README, "Your own table")
    assert shell.run(fit).strip().endswith("models/churn/1")
    assert (shell.folder / "models" / "churn" / "1" / "report.html").exists()
    assert serve == "make run MODEL=churn"
    process, _ = make_run(starter, shell.folder / "models", MODEL="churn", **shell.environment)
    (prediction,) = json.loads(shell.run(predict))["predictions"]
    assert prediction["label"] == "yes"
    stop_with_ctrl_c(process)


def test_bring_your_own_model_commands_work(shell: Shell, starter: Starter) -> None:
    export, serve, predict, *others = commands(TOUR, "Bring your own model")
    shell.run(export)
    assert serve == "make run MODEL=half_plus_two"
    process, _ = make_run(
        starter, shell.folder / "models", MODEL="half_plus_two", **shell.environment
    )
    assert '"predictions":[2.5]' in run_printed_curl(process)  # for 1.0: it has no description
    assert json.loads(shell.run(predict))["predictions"] == [2.5, 3.0, 4.5]
    stop_with_ctrl_c(process)
    for command in others:
        assert shell.run(command)


def test_contributing_commands_work(shell: Shell) -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in commands(CONTRIBUTING, "Set up"):
        if command in RUN_BY_CI:
            assert command in ci
        else:
            assert shell.run(command)


def test_course_benchmark_runs_and_keeps_its_results_file(shell: Shell) -> None:
    (command,) = re.findall(
        r"`(\S*python -m benchmarks\.course)`", (DOCS / "course.md").read_text()
    )
    result = shell.folder / "benchmarks" / "results" / "course.md"
    before = result.read_text()
    match = re.search(r"\| transposed, α = 0.1 \| (0\.\d+)", shell.run(f"{command} --seeds 1"))
    assert match is not None
    assert 0.75 < float(match[1]) < 0.98  # with all seeds it is 0.89
    assert result.read_text() == before  # only --write replaces it


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("images")  # so that the builds here are cached
def test_docker_commands_work(shell: Shell, starter: Starter) -> None:
    # Our image stands in for TensorFlow Serving's, which cannot be pulled everywhere.
    shell.run("docker compose -f docker-compose.yml -f docker-compose.embedded.yml build")
    stand_in = f"tensorflow/serving:{EMBEDDED_TAG}"
    shell.run(f"docker tag logreg-serving/serving {stand_in}")
    shell.environment |= {
        "TF_SERVING_VERSION": EMBEDDED_TAG,
        "COMPOSE_PROJECT_NAME": f"readme-{shell.environment['PORT']}",
    }
    first, *others, down = commands(README, "With Docker")
    assert first == "make run SERVER=docker"
    try:
        process, _ = make_run(
            starter, shell.folder / "models", SERVER="docker", TF_SERVING_VERSION=EMBEDDED_TAG
        )
        stop_with_ctrl_c(process)
        for command in others:
            shell.run(command)
        for command in commands(OPERATION, "Docker Compose"):
            if command not in others:
                shell.run(command.replace("PORT=8080-8081", "PORT= SERVING_PORT="))
        shell.run(down)
    finally:
        shell.run("docker compose down --volumes")
        shell.run(f"docker rmi --force {stand_in}")


def test_settings_table_matches_the_settings() -> None:
    settings = (DOCS / "settings.md").read_text()
    rows = re.findall(r"^\| `CLIENT_(\w+)` \| `(.+?)` \| (.+?) \|$", settings, re.M)
    assert rows == [
        (name.upper(), str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]


@pytest.mark.parametrize(
    ("page", "benchmark", "row"),
    [
        ("docs/architecture.md", "imports", r"\| `(?:from|import) .* MB \|"),
        ("docs/course.md", "course", r"\|.* 0\.\d+ \| .* to .* \|"),
        ("docs/training.md", "training", r"\|.* s \| .* GB \| 0\.\d+ \|"),
    ],
)
def test_documented_numbers_match_benchmark_results(page: str, benchmark: str, row: str) -> None:
    measured = (ROOT / "benchmarks" / "results" / f"{benchmark}.md").read_text()
    lines = re.findall(rf"^ *({row})$", (ROOT / page).read_text(), re.M)
    assert len(lines) >= 2
    for line in lines:
        assert line in measured


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_and_anchors_exist(page: str) -> None:
    links = re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", (ROOT / page).read_text())
    assert links
    for target, anchor in links:
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            assert anchor in [title.lower().replace(" ", "-") for title in headings], anchor
