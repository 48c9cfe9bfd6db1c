"""The client's settings: environment variables that start with `CLIENT_`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from client.serving.channel import Tls, target

# The directory through which workers share metrics; read by the Prometheus library.
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

PREFIX = "CLIENT_"

AccessLog = Literal["all", "errors", "none"]
Unusual = Literal["count", "refuse"]
# Kubernetes sets these for a service that is named client.
SERVICE_LINK = re.compile(r"CLIENT_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")


class Settings(BaseSettings):
    """Settings for operators; docs/settings.md has the same table."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    server: str = Field(
        default="127.0.0.1:8500",
        description="host:port of the model server's gRPC API, or several ip:port with commas; "
        "all addresses that a name resolves to take turns",
    )
    server_tls: bool = Field(default=False, description="encrypt the connection to the server")
    server_ca: Path | None = Field(
        default=None, description="PEM file of the authorities that the server's certificate is of"
    )
    server_cert: Path | None = Field(
        default=None, description="PEM file of the client's own certificate, for mutual TLS"
    )
    server_key: Path | None = Field(default=None, description="PEM file of its key")
    model: str = Field(
        default="breast_cancer", description="model that /predict, /readyz and / are about"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="HTTP port")
    workers: int = Field(default=1, ge=1, le=256, description="processes that answer requests")
    threads: int = Field(
        default=8, ge=1, description="requests for the page and its files worked on at once"
    )
    timeout: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="seconds until a prediction must be answered; a request may ask for less "
        "with X-Request-Timeout",
    )
    max_body_bytes: int = Field(default=16 * 2**20, gt=0, description="largest request body")
    max_table_bytes: int = Field(
        default=2**30,
        gt=0,
        description="largest table (CSV, NDJSON, Arrow, npy); these pass in pieces",
    )
    body_timeout: float = Field(
        default=30.0,
        gt=0,
        description="seconds until a request's body must have arrived, of a table the next piece",
    )
    write_timeout: float = Field(
        default=30.0,
        gt=0,
        description="seconds after which a connection whose response is not read is closed",
    )
    max_unsent_bytes: int = Field(
        default=64 * 2**20,
        gt=0,
        description="bytes of responses that may wait to be read; over that, connections that "
        "read least are closed",
    )
    max_requests: int = Field(
        default=2048, ge=1, description="requests a process works on at once; more get a 503"
    )
    max_waiting: int = Field(
        default=1024, ge=1, description="requests that may wait for a call; more get a 429"
    )
    batch_rows: int = Field(
        default=1024, ge=1, description="rows that requests may share a call with; 1 for none"
    )
    max_calls: int = Field(
        default=4,
        ge=1,
        description="calls to the model server in flight that are not shared: large requests, "
        ":classify, :regress, models that take no batch; more wait",
    )
    out_of_range: Unusual = Field(
        default="count",
        description="what to do with numbers outside the range that their column had in training, "
        "and with categories it did not have: count them in the metrics, or refuse the request "
        "(400)",
    )
    missing_values: Unusual = Field(
        default="count",
        description="what to do with missing values, which the model imputes: count them in the "
        "metrics and in X-Missing-Imputed, or refuse the request (400)",
    )
    cors: bool = Field(
        default=False, description="let pages of other origins read what /v1 answers"
    )
    api_keys: Path | None = Field(
        default=None,
        description="file of the API keys' hashes (`python -m client new-key` makes one); "
        "without it everybody may ask",
    )
    access_log: AccessLog = Field(
        default="errors", description="requests to log: all, errors (5xx) or none"
    )
    server_timing: bool = Field(
        default=False, description="tell in each reply's Server-Timing how long it took, and where"
    )
    drain_delay: float = Field(
        default=0.0,
        ge=0,
        description="seconds to go on serving after SIGTERM, with /readyz already saying no",
    )

    @field_validator("port", mode="before")
    @classmethod
    def _without_service_link(cls, value: Any) -> Any:
        linked = isinstance(value, str) and value.startswith("tcp://")
        return cls.model_fields["port"].default if linked else value

    @model_validator(mode="after")
    def _check(self) -> Settings:
        target(self.server)
        if not self.server_tls and (self.server_ca or self.server_cert or self.server_key):
            raise ValueError("server_ca, server_cert and server_key need CLIENT_SERVER_TLS=true")
        if (self.server_cert is None) != (self.server_key is None):
            raise ValueError("server_cert and server_key belong together")
        return self

    @classmethod
    def unknown(cls, environment: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return names in the environment that look like settings but are unknown.

        Returns:
            Misspelled names, and names that Kubernetes sets.
        """
        known = {f"{PREFIX}{name}".upper() for name in cls.model_fields}
        names = sorted(
            n for n in environment if n.upper().startswith(PREFIX) and n.upper() not in known
        )
        links = [name for name in names if SERVICE_LINK.fullmatch(name)]
        return [name for name in names if name not in links], links

    @property
    def tls(self) -> Tls | None:
        """How the connection to the model server is encrypted."""
        if self.server_tls:
            return Tls(self.server_ca, self.server_cert, self.server_key)
        return None
