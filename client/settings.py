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
InputPolicy = Literal["count", "refuse"]
# Kubernetes sets these for a service named client.
SERVICE_LINK = re.compile(r"CLIENT_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")


class Settings(BaseSettings):
    """Settings for operators; docs/settings.md lists them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    server: str = Field(
        default="127.0.0.1:8500",
        description="host:port of the model server's gRPC API, or several ip:port separated by "
        "commas; all addresses of a name are used",
    )
    server_tls: bool = Field(default=False, description="encrypt the connection to the server")
    server_ca: Path | None = Field(
        default=None,
        description="PEM file of the certificate authorities for the server's certificate",
    )
    server_cert: Path | None = Field(
        default=None, description="PEM file of the client's own certificate, for mutual TLS"
    )
    server_key: Path | None = Field(default=None, description="PEM file of that certificate's key")
    model: str = Field(
        default="breast_cancer", description="model of /predict, /readyz and the page"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="HTTP port")
    workers: int = Field(default=1, ge=1, le=256, description="processes that answer requests")
    threads: int = Field(
        default=8, ge=1, description="concurrent requests for the page and its files"
    )
    timeout: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="timeout of a prediction in seconds; X-Request-Timeout lowers it for a request",
    )
    max_body_bytes: int = Field(default=16 * 2**20, gt=0, description="largest request body")
    max_table_bytes: int = Field(
        default=2**30,
        gt=0,
        description="largest table (CSV, NDJSON, Arrow, npy); tables are streamed",
    )
    body_timeout: float = Field(
        default=30.0,
        gt=0,
        description="seconds within which a request's body must arrive; for a table, each piece",
    )
    write_timeout: float = Field(
        default=30.0,
        gt=0,
        description="seconds after which a connection is closed if its response is not read",
    )
    max_unsent_bytes: int = Field(
        default=64 * 2**20,
        gt=0,
        description="bytes of unread responses; beyond that, the slowest connections are closed",
    )
    max_requests: int = Field(
        default=2048, ge=1, description="concurrent requests of a process; more get a 503"
    )
    max_waiting: int = Field(
        default=1024, ge=1, description="requests in the queue; more get a 429"
    )
    batch_rows: int = Field(
        default=1024, ge=1, description="rows of a shared call; 1 disables batching"
    )
    max_calls: int = Field(
        default=4,
        ge=1,
        description="concurrent calls that are not shared: large requests, :classify, :regress, "
        "models without a batch dimension; more wait",
    )
    out_of_range: InputPolicy = Field(
        default="count",
        description="numbers outside the training range, and categories not seen in training: "
        "count them in the metrics, or refuse the request (400)",
    )
    missing_values: InputPolicy = Field(
        default="count",
        description="missing values, which the model imputes: count them in the metrics and in "
        "X-Missing-Imputed, or refuse the request (400)",
    )
    cors: bool = Field(
        default=False, description="let pages of other origins read the responses of /v1"
    )
    api_keys: Path | None = Field(
        default=None,
        description="file of the API keys' hashes (`python -m client new-key` creates one); "
        "without it no key is needed",
    )
    rollout: Path | None = Field(
        default=None,
        description="directory of rollout files, which `python -m rollout` writes; without it the "
        "latest version answers requests that name none",
    )
    sticky_header: str | None = Field(
        default=None,
        description="header whose value determines the arm of a rollout, so that a caller stays "
        "with one version; without it each request gets a random arm",
    )
    reports: Path | None = Field(
        default=None,
        description="directory of all models, whose training reports are shown at "
        "/reports/MODEL/VERSION; without it the page has no links to them",
    )
    access_log: AccessLog = Field(
        default="errors", description="requests to log: all, errors (5xx) or none"
    )
    log: Path | None = Field(
        default=None,
        description="directory of the prediction log and of the feedback; without it neither is "
        "kept, and /feedback is off",
    )
    log_share: float = Field(
        default=1.0, ge=0, le=1, description="share of the requests whose rows are logged"
    )
    log_leave_out: str | None = Field(
        default=None, description="columns that are not logged, comma-separated"
    )
    server_timing: bool = Field(
        default=False, description="report the time spent on each request in a Server-Timing header"
    )
    drain_delay: float = Field(
        default=0.0,
        ge=0,
        description="seconds to keep serving after SIGTERM while /readyz fails",
    )

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_service_link(cls, value: Any) -> Any:
        is_link = isinstance(value, str) and value.startswith("tcp://")
        return cls.model_fields["port"].default if is_link else value

    @model_validator(mode="after")
    def _check(self) -> Settings:
        target(self.server)
        if not self.server_tls and (self.server_ca or self.server_cert or self.server_key):
            raise ValueError("server_ca, server_cert and server_key need CLIENT_SERVER_TLS=true")
        if (self.server_cert is None) != (self.server_key is None):
            raise ValueError("server_cert and server_key must be set together")
        return self

    @classmethod
    def unknown_names(cls, environment: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return names of variables that look like settings but are unknown.

        Returns:
            Misspelled names, and names that Kubernetes sets.
        """
        known = {f"{PREFIX}{name}".upper() for name in cls.model_fields}
        names = sorted(
            name
            for name in environment
            if name.upper().startswith(PREFIX) and name.upper() not in known
        )
        links = [name for name in names if SERVICE_LINK.fullmatch(name)]
        return [name for name in names if name not in links], links

    @property
    def tls(self) -> Tls | None:
        """TLS files for the model server; None for a plain connection."""
        if self.server_tls:
            return Tls(self.server_ca, self.server_cert, self.server_key)
        return None
