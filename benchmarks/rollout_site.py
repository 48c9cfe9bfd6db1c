"""Model servers, gateways and a rollout file for `benchmarks.rollout`.

The load generator checks every response.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from benchmarks.processes import Server, free_port, running
from tests.support.processes import is_serving
from tests.support.rollouts import write_rollout

X = 3.0
BODY = json.dumps({"instances": [X]}).encode()
PATH = "/v1/models/m:predict"
# Without a rollout, the newest version answers, so it must be a healthy one.
RAISES, NANS, HANGS, STABLE, HEALTHY = range(1, 6)
START_SECONDS = 120


@dataclass
class Outcome:
    """The responses to a load.

    Attributes:
        failed: number of errors and of missing responses.
        mismatched: number of responses whose values, version and arm do not match.
        arms: number of responses by arm.
        last: time of each version's last response, from `time.perf_counter`.
        seconds: latency of each request.
    """

    failed: int = 0
    mismatched: int = 0
    arms: Counter[str] = field(default_factory=Counter)
    last: dict[int, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def fail(self, error: str) -> None:
        """Count a failure, and print the first."""
        if not self.failed:
            print("a request failed:", error, file=sys.stderr)
        self.failed += 1

    def count(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Count a response."""
        if status != 200:
            self.fail(body.decode())
            return
        version, arm = int(headers["x-model-version"]), headers.get("x-model-arm", "none")
        self.arms[arm] += 1
        self.last[version] = time.perf_counter()
        row = json.loads(body)["predictions"][0]
        is_correct = row["y"] == 10 * X + version and row["probability"] is not None
        self.mismatched += not is_correct or (arm == "canary") == (version == STABLE)


class Site:
    """A model, its rollout file, model servers, and gateways in front of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.base_path = folder / "models" / "m"
        self.rollouts = folder / "rollouts"
        self.generation = 0
        self._stack = stack
        self._count = 0

    def write_state(self, **state: Any) -> None:
        """Write the next generation of the rollout file."""
        self.generation += 1
        write_rollout(self.rollouts, "m", generation=self.generation, stable=STABLE, **state)

    def write_config(self) -> Path:
        """Write a model config file with all versions, and return its path."""
        file = self.folder / "models.config"
        file.write_text(
            f'model_config_list {{ config {{ name: "m" base_path: "{self.base_path}" '
            'model_platform: "tensorflow" model_version_policy { all {} } } }'
        )
        return file

    def start_model_server(self, config: Path) -> tuple[Server, str, str]:
        """Start a model server with a model config file.

        Returns:
            The server, its address, and the URL of its REST port.
        """
        port, rest_port = free_port(), free_port()
        command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}"]
        command += [f"--rest_api_port={rest_port}", "--grpc_max_threads=64"]
        command += [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"]
        command += ["--allow_version_labels_for_unavailable_models=true"]
        server = self._start(command, {})
        address = f"127.0.0.1:{port}"
        server.wait(lambda: _holds(lambda: is_serving(address)), START_SECONDS)
        return server, address, f"http://127.0.0.1:{rest_port}"

    @contextmanager
    def gateway(self, *servers: str, rollout: bool = True, timeout: float = 5.0) -> Iterator[str]:
        """Run a gateway while the context lasts, and yield its URL."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        settings = {"CLIENT_SERVER": ",".join(servers), "CLIENT_MODEL": "m"}
        settings |= {"CLIENT_TIMEOUT": str(timeout)}
        if rollout:
            settings["CLIENT_ROLLOUT"] = str(self.rollouts)
        command = [sys.executable, "-m", "client", "serve", f"--port={port}"]
        with running(command, self._log(), **settings) as server:
            ready = lambda: requests.get(f"{url}/readyz", timeout=5).ok  # noqa: E731
            server.wait(lambda: _holds(ready), START_SECONDS)
            yield url

    def _start(self, command: list[str], settings: dict[str, str]) -> Server:
        return self._stack.enter_context(running(command, self._log(), **settings))

    def _log(self) -> Path:
        self._count += 1
        return self.folder / f"{self._count}.log"


def _holds(condition: Callable[[], bool]) -> bool:
    """Return whether a condition is true; False if it raises."""
    try:
        return condition()
    except Exception:
        return False


async def send(
    url: str,
    count: int,
    connections: int,
    rate: float | None = None,
    until: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Send requests over persistent connections, and check every response.

    Args:
        url: URL to send to.
        count: number of requests.
        connections: number of connections.
        rate: requests per second; None sends each once the previous response has arrived.
        until: returns whether to end early.
    """
    parts, outcome = urlsplit(url), Outcome()
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(BODY)}\r\n"
    message = f"{head}Content-Type: application/json\r\n\r\n".encode() + BODY
    remaining = iter(range(count))
    started = time.perf_counter()

    async def send_remaining() -> None:
        writer: asyncio.StreamWriter | None = None
        for index in remaining:
            if until():
                return
            if rate is not None:
                await asyncio.sleep(max(0.0, started + index / rate - time.perf_counter()))
            before = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(message)
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = await reader.readexactly(int(fields["content-length"]))
                outcome.count(int(lines[0].split()[1]), fields, body)
            except (OSError, EOFError) as error:
                outcome.fail(repr(error))
                writer = None
            outcome.seconds.append(time.perf_counter() - before)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(send_remaining() for _ in range(connections)))
    return outcome
