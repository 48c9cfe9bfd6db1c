"""Responses conform to the OpenAPI document.

Schemathesis reads the document and sends each operation its examples, values on both sides of
every limit, and random values. It checks that no request causes a server error and that the
document describes the status, headers, content type and body of every response.
`schemathesis.toml` lists the exceptions and their reasons.
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
MIN_REQUESTS = 2000


@pytest.fixture(scope="module")
def url(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a client that has loaded the schemas of two models."""
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


def test_responses_conform_to_the_openapi_document(url: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={CONFIG}",
            "run",
            f"{url}/openapi.json",
        ],
        cwd=tmp_path,  # Schemathesis writes files here
        env={"PYTHONPATH": str(processes.ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    paths = requests.get(f"{url}/openapi.json", timeout=30).json()["paths"]
    assert f"Tested: {len(paths)}" in result.stdout
    generated = re.search(r"(\d+) generated", result.stdout)
    assert generated is not None
    assert int(generated[1]) > MIN_REQUESTS
    assert requests.get(f"{url}/readyz", timeout=10).ok
