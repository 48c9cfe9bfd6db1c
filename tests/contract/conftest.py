"""The models of the recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import recordings


@pytest.fixture(scope="session")
def recorded_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model that the recordings name. Do not write to it."""
    folder = tmp_path_factory.mktemp("recorded-models")
    recordings.gather_models(folder)
    return folder
