"""Fixtures of tests with containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.support.containers import ALL_FILES, Compose, readable


@pytest.fixture(scope="session")
def images(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All images, built from the checkout once, but that of retraining.

    It only joins the packages of training and monitoring, and building it takes a minute of CPU.
    """
    with shared_folder(tmp_path_factory, "images") as folder:
        built = folder / "images.built"
        if not built.exists():
            Compose(*ALL_FILES)("build")
            built.touch()


@pytest.fixture(scope="session")
def mountable_models(trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained models that the users of containers can read."""
    return readable(trained_models, tmp_path_factory.mktemp("mountable") / "models")
