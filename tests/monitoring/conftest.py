"""A gateway stub that serves only metrics, and the walk-through's data and model."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import walkthrough


@pytest.fixture(scope="session")
def trained_churn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`table.csv`, and models/churn/1 trained on it (docs/monitoring.md). Do not write to them."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # All workers of this run share it.
        base = base.parent
    folder = base / "churn"
    folder.mkdir(exist_ok=True)
    with (base / "churn.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "models" / "churn" / "1").exists():
            walkthrough.run(walkthrough.code_blocks()[0], folder)
    return folder


@pytest.fixture
def churn(trained_churn: Path, tmp_path: Path) -> Path:
    """A copy of `trained_churn` that a test may change."""
    return Path(shutil.copytree(trained_churn, tmp_path / "churn"))


@pytest.fixture
def gateway() -> Iterator[HTTPServer]:
    """A server that answers every GET with its attribute `text`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(server.text.encode())  # type: ignore[attr-defined]

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
