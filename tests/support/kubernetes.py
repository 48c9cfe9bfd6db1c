"""Renders the manifests in deploy/kubernetes."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

Resource = dict[str, Any]


@functools.cache
def render(path: str) -> tuple[Resource, ...]:
    """Return the resources of `base` or of a named overlay, as `kubectl` renders them."""
    return render_folder(KUBERNETES / (path if path == "base" else f"overlays/{path}"))


def render_folder(folder: Path) -> tuple[Resource, ...]:
    """Return the resources of a folder with a `kustomization.yaml`."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no deprecation warnings
    return tuple(yaml.safe_load_all(result.stdout))


def find(path: str, kind: str, name: str) -> Resource:
    """Return one rendered resource."""
    (match,) = (r for r in render(path) if (r["kind"], r["metadata"]["name"]) == (kind, name))
    return match


def pods(path: str) -> Iterator[tuple[str, Resource]]:
    """Yield the name and the pod spec of each resource that runs pods."""
    for resource in render(path):
        spec = resource.get("spec", {})
        if resource["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield resource["metadata"]["name"], spec["template"]["spec"]
