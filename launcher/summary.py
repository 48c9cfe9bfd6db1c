"""What `make run` prints when the service is ready: addresses, an example request, the report."""

from __future__ import annotations

import json
import os
import shlex
import socket
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from launcher import ports

# Proxies of the environment are for other machines.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def is_ready(url: str) -> bool:
    """Return whether the client at this URL can answer predictions."""
    try:
        with _open(f"{url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def summary(url: str, server: str, base_path: Path, logs: Path) -> str:
    """Return the addresses and paths of a service, one on each line.

    Args:
        url: of the client.
        server: host:port of the model server.
        base_path: directory of the model's versions.
        logs: directory of the logs.
    """
    row = json.dumps({"instances": [_example_row(url, base_path.name)]})
    lines = {
        "page": f"{url}/",
        "predict": f"curl -s {url}/predict -d {shlex.quote(row)}",
        "report": newest_report(base_path),
        "metrics": f"{url}/metrics",
        "gRPC": server,
        "logs": logs,
    }
    return "\n".join(f"  {name:8} {value}" for name, value in lines.items() if value)


def newest_report(base_path: Path) -> Path | None:
    """Return the report of the newest version; models made elsewhere have none."""
    numbers = [int(child.name) for child in base_path.iterdir() if child.name.isdecimal()]
    report = base_path / str(max(numbers, default=0)) / "report.html"
    return report if report.exists() else None


def exposure_warning(host: str, port: int) -> str:
    """Return what to know about a service that other machines can reach; nothing if none can."""
    if ports.local(host) == host and _is_loopback(host):
        return ""
    keys = os.environ.get("CLIENT_API_KEYS")
    lacks = "is not encrypted" if keys else "is neither encrypted nor asks for an API key"
    return (
        f"Warning: HOST={host} lets other machines reach port {port} "
        f"(http://{ports.address(socket.gethostname(), port)}/), which {lacks}; "
        "see docs/operation.md."
    )


def _is_loopback(host: str) -> bool:
    addresses = socket.getaddrinfo(host, None)
    return all(str(a[4][0]).startswith("127.") or a[4][0] == "::1" for a in addresses)


def _example_row(url: str, model: str) -> Any:
    """Return a typical row of the model's first class, from the model's description."""
    query = {"signature_name": "describe", "instances": [0]}
    request = urllib.request.Request(
        f"{url}/v1/models/{model}:predict", data=json.dumps(query).encode()
    )
    try:
        with _open(request, timeout=5) as response:
            return list(_typical_values(json.load(response)["predictions"][0]))
    except (OSError, KeyError, TypeError):
        return "..."


def _typical_values(description: dict[str, Any]) -> Iterator[Any]:
    vocabulary = iter(description["vocabulary_values"])
    for kind, length, mean, mode in zip(
        description["kinds"],
        description["vocabulary_lengths"],
        description["class_means"][0],
        description["class_modes"][0],
        strict=True,
    ):
        values = list(islice(vocabulary, length))
        if kind == "numeric":
            yield float(f"{mean:.4g}")
        elif kind == "boolean":
            yield values[mode] == "true"
        else:
            yield int(values[mode]) if values[mode].isdecimal() else values[mode]
