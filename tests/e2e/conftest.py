"""Fixtures for tests that run containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.support.containers import ALL_FILES, Compose, copy_for_containers


@pytest.fixture(scope="session")
def images(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build the images from the checkout once, except the retraining image.

    It only combines the packages of training and monitoring, and takes a CPU minute to build.
    """
    with shared_folder(tmp_path_factory, "images") as folder:
        built = folder / "images.built"
        if not built.exists():
            Compose(*ALL_FILES)("build")
            built.touch()


@pytest.fixture(scope="session")
def mountable_models(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained models that container users can read."""
    return copy_for_containers(trained_models, tmp_path_factory.mktemp("mountable") / "models")
