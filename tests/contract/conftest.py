"""Fixture of the models that the recordings use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import recordings


@pytest.fixture(scope="session")
def recorded_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all models that the recordings use. Do not write to it."""
    folder = tmp_path_factory.mktemp("recorded-models")
    recordings.write_models(folder)
    return folder
