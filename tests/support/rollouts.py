"""Rollout files as the controller writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rollout_document(model: str, **changes: Any) -> dict[str, Any]:
    """Return a rollout file's content, by default with stable version 1 and no canary."""
    return {
        "format": 1,
        "model": model,
        "generation": 1,
        "phase": "idle",
        "stable": 1,
        "canary": None,
        "previous": None,
        "percent": 0.0,
        "shadow": None,
        "salt": "salt",
        "steps": [],
        "step": 0,
        "reason": "",
        "time": "2026-01-01T00:00:00Z",
        **changes,
    }


def write_rollout(directory: Path, model: str, **changes: Any) -> Path:
    """Replace the rollout file of a model and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{model}.json"
    hidden = directory / f".{model}.tmp"
    hidden.write_text(json.dumps(rollout_document(model, **changes)))
    return hidden.replace(path)
