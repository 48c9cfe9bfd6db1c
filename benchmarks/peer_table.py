"""The peers: versions, commands and settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks import payloads
from benchmarks.payloads import Codec

TENSORFLOW = "tensorflow==2.20.0"


@dataclass(frozen=True)
class Peer:
    """A server that returns the model's probabilities over HTTP.

    Attributes:
        name: name in tables.
        command: command that starts the peer. `{bin}` is the `bin` directory of its environment,
            `{port}` the port to listen on, `{server}` the model server's address. Empty for
            TensorFlow Serving's REST port, which is open already.
        path: path of the prediction requests.
        codec: format of requests and responses in JSON.
        settings: settings in words, for the report.
        packages: requirements of its environment; empty for the project's own environment.
        calls_model_server: whether it calls a model server, whose CPU time counts too.
        table_codecs: other formats that it accepts for many rows, by name.
        environment: environment variables, with the same placeholders as `command`.
    """

    name: str
    command: str
    path: str
    codec: Codec
    settings: str
    packages: tuple[str, ...] = ()
    calls_model_server: bool = False
    table_codecs: Mapping[str, Codec] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name in file names and in `--only`."""
        return self.name.split()[0].lower().replace("'s", "")

    @property
    def codecs(self) -> Mapping[str, Codec]:
        """All formats by name."""
        return {"JSON": self.codec, **self.table_codecs}

    def fill_placeholders(self, **values: object) -> tuple[list[str], dict[str, str]]:
        """Return command and environment with all placeholders filled."""
        environment = {name: text.format(**values) for name, text in self.environment.items()}
        return shlex.split(self.command.format(**values)), environment


OURS = Peer(
    name="ours",
    command="{bin}/python -m client serve --host=127.0.0.1 --port={port} --server={server}",
    path=f"/v1/models/{payloads.MODEL}:predict",
    codec=payloads.TENSORFLOW_SERVING,
    settings="`python -m client serve` with defaults: one process, in front of the model server",
    calls_model_server=True,
    table_codecs={"npy": payloads.NPY, "Arrow": payloads.ARROW},
)
TENSORFLOW_SERVING = Peer(
    name="TensorFlow Serving's REST",
    command="",
    path=f"/v1/models/{payloads.MODEL}:predict",
    codec=payloads.TENSORFLOW_SERVING,
    settings="its own REST port; --grpc_max_threads=64",
)
COURSE = Peer(
    name="course's client",
    command="{bin}/gunicorn -w 2 -b 127.0.0.1:{port} benchmarks.peers.course_app:app",
    path="/api/v1/prediction/breast_cancer",
    codec=payloads.PLAIN,
    settings="gunicorn -w 2 (sync), Flask, a new gRPC channel for each request, in front of the "
    "same model server as ours",
    packages=(
        TENSORFLOW,
        "tensorflow-serving-api==2.20.0",
        "flask==3.1.3",
        "gunicorn==27.0.1",
    ),
    calls_model_server=True,
    environment={"SERVER": "{server}"},
)
FASTAPI = Peer(
    name="FastAPI",
    command="{bin}/uvicorn benchmarks.peers.fastapi_app:app --host=127.0.0.1 --port={port} "
    "--workers={cores} --no-access-log",
    path="/predict",
    codec=payloads.PLAIN,
    settings="uvicorn with uvloop and httptools, a worker for each core, `def` endpoint in the "
    "thread pool, pydantic models for request and response, TensorFlow in process",
    packages=(TENSORFLOW, "fastapi==0.163.2", "uvicorn[standard]==0.54.0"),
)
LITSERVE = Peer(
    name="LitServe",
    command="{bin}/python -m benchmarks.peers.litserve_app",
    path="/predict",
    codec=payloads.PLAIN,
    settings="max_batch_size 64, batch_timeout 1 ms, a worker and an API server for each core, "
    "fast_queue, TensorFlow in process",
    packages=(TENSORFLOW, "litserve==0.2.19"),
    environment={"PORT": "{port}"},
)
BENTOML = Peer(
    name="BentoML",
    command="{bin}/bentoml serve benchmarks.peers.bentoml_app:Service --host=127.0.0.1 "
    "--port={port}",
    path="/predict",
    codec=payloads.BARE_LIST,
    settings="adaptive batching (up to 16,384 rows, max_latency 1 s), a worker for each core, no "
    "access log, TensorFlow in process",
    packages=(TENSORFLOW, "bentoml==1.4.39"),
    environment={"BENTOML_HOME": "{folder}", "BENTOML_DO_NOT_TRACK": "True"},
)
MLSERVER = Peer(
    name="MLServer",
    command="{bin}/mlserver start .",
    path=f"/v2/models/{payloads.MODEL}/infer",
    codec=payloads.OPEN_INFERENCE,
    settings="adaptive batching (up to 64 requests, 1 ms), parallel_workers 0 (its pool of "
    "processes does not start with uvloop 0.23, and was slower with 0.21), no debug, TensorFlow in "
    "process",
    packages=(TENSORFLOW, "mlserver==1.7.1"),
    environment={
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{port_2}",
        "MLSERVER_METRICS_PORT": "{port_3}",
        "MLSERVER_DEBUG": "false",
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_MODEL_NAME": payloads.MODEL,
        "MLSERVER_MODEL_IMPLEMENTATION": "benchmarks.peers.mlserver_app.Model",
        "MLSERVER_MODEL_MAX_BATCH_SIZE": "64",
        "MLSERVER_MODEL_MAX_BATCH_TIME": "0.001",
    },
)

# Peers that run the model in their own process.
PYTHON_PEERS = (FASTAPI, LITSERVE, BENTOML, MLSERVER)
PEERS = (OURS, COURSE, *PYTHON_PEERS)
