"""The model servers and the states of their versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from rollout.network import UnreachableError, call_each, get, resolve_addresses

AVAILABLE = "AVAILABLE"


@dataclass(frozen=True)
class Server:
    """A model server's state.

    Attributes:
        states: state of each version by number.
        errors: error of each version that failed to load.
        problem: why there is no state; "" if there is one.
    """

    states: Mapping[int, str] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    problem: str = ""


Servers = Mapping[str, Server]  # by ip:port


def observe(urls: Sequence[str], model: str) -> Servers:
    """Query every model server behind these URLs for the states of a model's versions."""
    return call_each(resolve_addresses(urls), lambda address: _fetch(address, model))


def is_available_everywhere(servers: Servers, version: int) -> bool:
    """Return whether a version is AVAILABLE on every server; False without servers."""
    return bool(servers) and all(
        server.states.get(version) == AVAILABLE for server in servers.values()
    )


def load_error(servers: Servers, version: int) -> str:
    """Return the error of a server that failed to load a version, or ""."""
    for address, server in servers.items():
        if server.states.get(version) == "END" and (error := server.errors.get(version)):
            return f"{address} cannot load it: {error}"
    return ""


def describe_unavailable(servers: Servers, version: int) -> str:
    """Return the servers on which a version is not AVAILABLE, with the reasons."""
    reasons = [
        f"{address}: {server.problem or server.errors.get(version) or 'not loaded yet'}"
        if server.problem or version not in server.states or server.errors.get(version)
        else f"{address}: {server.states[version]}"
        for address, server in servers.items()
        if server.states.get(version) != AVAILABLE
    ]
    return "; ".join(reasons) or "no model server is known"


def _fetch(address: str, model: str) -> Server:
    try:
        status, body = get(address, f"/v1/models/{quote(model, safe='')}")
    except UnreachableError as error:
        return Server(problem=str(error))
    try:
        document = json.loads(body)
        if status == 404:
            return Server(problem=str(document["error"]))
        states, errors = {}, {}
        for entry in document["model_version_status"]:
            version = int(entry["version"])
            states[version] = str(entry["state"])
            if entry["status"]["error_code"] not in ("OK", 0):
                errors[version] = str(entry["status"]["error_message"])
    except (ValueError, KeyError, TypeError):
        return Server(problem=f"not a model server: GET /v1/models/{model} returned {status}")
    return Server(states, errors)
