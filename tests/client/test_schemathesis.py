"""Whatever the OpenAPI document allows or forbids is answered as the document says.

Schemathesis reads the document and asks every operation: the examples, each limit of each schema
from both sides, and values at random. It sees to it that no request is a server error, and that
status, headers, type and form of every reply are described. `schemathesis.toml` says what is left
out, and why.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import forked, mixed, processes
from tests.support.caller import model_config, models_config

CONFIG = Path(__file__).with_name("schemathesis.toml")
REQUESTS = 2000


@pytest.fixture(scope="module")
def url(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a client in front of two models, both of them known to it."""
    folder = tmp_path_factory.mktemp("schemathesis")
    mixed.publish(folder / "flats")
    paths = (folder / "flats", trained_models / "breast_cancer")
    config = models_config(*map(model_config, paths))
    with (
        forked.model_server(folder, config) as server,
        forked.client(
            folder / "client", server, CLIENT_MODEL="flats", CLIENT_LOG=str(folder / "predictions")
        ) as url,
    ):
        assert requests.get(f"{url}/v1/models/breast_cancer/metadata", timeout=30).ok
        yield url


def test_every_operation_answers_as_it_is_described(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={CONFIG}",
            "run",
            f"{url}/openapi.json",
        ],
        cwd=tmp_path,  # where it keeps what it has found
        env={"PYTHONPATH": str(processes.ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    paths = requests.get(f"{url}/openapi.json", timeout=30).json()["paths"]
    assert f"Tested: {len(paths)}" in done.stdout
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None
    assert int(generated[1]) > REQUESTS
    assert requests.get(f"{url}/readyz", timeout=10).ok
