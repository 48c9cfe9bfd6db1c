"""The summary that `make run` prints once ready: addresses, an example request, the report."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from launcher import ports

ROOT = Path(__file__).resolve().parents[1]
# Bypass configured proxies: the addresses are local.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def is_ready(url: str) -> bool:
    """Return whether the client at this URL can answer prediction requests."""
    try:
        with _open(f"{url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def summary(url: str, server: str, base_path: Path, logs: Path) -> str:
    """Return the addresses and paths of a service, one per line.

    Args:
        url: URL of the client.
        server: host:port of the model server.
        base_path: directory of the model's versions.
        logs: directory of the logs.
    """
    lines = {
        "page": f"{url}/",
        "predict": _example_call(url, server, base_path.name),
        "report": newest_report(base_path),
        "metrics": f"{url}/metrics",
        "gRPC": server,
        "logs": logs,
    }
    return "\n".join(f"  {name:8} {value}" for name, value in lines.items() if value)


def newest_report(base_path: Path) -> Path | None:
    """Return the newest version's report; None for models trained elsewhere."""
    numbers = [int(child.name) for child in base_path.iterdir() if child.name.isdecimal()]
    report = base_path / str(max(numbers, default=0)) / "report.html"
    return report if report.exists() else None


def exposure_warning(host: str, port: int) -> str:
    """Return a warning if other machines can reach the client; "" if they cannot."""
    if ports.reachable_address(host) == host and _is_loopback(host):
        return ""
    keys = os.environ.get("CLIENT_API_KEYS")
    risk = "is not encrypted" if keys else "neither is encrypted nor requires an API key"
    return (
        f"Warning: HOST={host} lets other machines reach port {port} "
        f"(http://{ports.address(socket.gethostname(), port)}/), which {risk}; "
        "see docs/operation.md."
    )


def _is_loopback(host: str) -> bool:
    addresses = socket.getaddrinfo(host, None)
    return all(str(a[4][0]).startswith("127.") or a[4][0] == "::1" for a in addresses)


def _example_call(url: str, server: str, model: str) -> str:
    """Return a curl command that predicts a typical row; the client builds the row."""
    command = [sys.executable, "-m", "client", "example", f"--server={server}", f"--model={model}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        return f"see {url}/docs/ ({reason})"
    request = json.loads(result.stdout)
    if "instances" in request:
        request["instances"] = request["instances"][:1]
    key = " -H 'X-API-Key: KEY'" if os.environ.get("CLIENT_API_KEYS") else ""
    body = shlex.quote(json.dumps(request, ensure_ascii=False))
    return f"curl -s {url}/predict{key} -d {body}"
