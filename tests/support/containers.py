"""Docker and Compose commands for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, free_port
from tests.support.tables import breast_cancer

FILES = ("docker-compose.yml", "docker-compose.embedded.yml")
# All services whose images are built here; `retraining` only replaces the image of `monitoring`.
ALL_FILES = (*FILES, *(f"deploy/compose.{name}.yml" for name in ("scale", "rollout", "monitoring")))
UP = ("-d", "--wait", "--wait-timeout=120")
BODY = {"instances": breast_cancer().features[:2].tolist()}


def docker(*arguments: str, **environment: str) -> str:
    """Run a `docker` command, check its exit status and return its output."""
    result = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


class Compose:
    """One Compose project, on ports that the engine chooses."""

    def __init__(self, *files: str, **environment: str) -> None:
        self.name = f"logreg-test-{free_port()}"
        self.files = files or FILES
        self.environment = {"PORT": "", "HTTPS_PORT": "", **environment}

    def __call__(self, *arguments: str, **environment: str) -> str:
        files = [option for file in self.files for option in ("-f", file)]
        variables = {**self.environment, **environment}
        return docker("compose", "-p", self.name, *files, *arguments, **variables)

    def address(self, service: str, port: int, replica: int = 1) -> str:
        return self("port", f"--index={replica}", service, str(port))

    @property
    def url(self) -> str:
        return f"http://{self.address('client', 8080)}"

    def with_file(self, file: str) -> Compose:
        """Return the same project with an additional file."""
        compose = Compose(*self.files, file, **self.environment)
        compose.name = self.name
        return compose

    def remove(self) -> None:
        """Remove the project without waiting for its processes to exit."""
        self("kill")
        self("down", "--volumes")


def inspect(compose: Compose, service: str) -> dict[str, Any]:
    """Return `docker inspect` of a service's only container."""
    container = compose("ps", "-q", service)
    containers: list[dict[str, Any]] = json.loads(docker("inspect", container))
    return containers[0]


def copy_for_containers(models: Path, folder: Path) -> Path:
    """Copy models so that container users can read them, and return the copy."""
    shutil.copytree(models, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
