"""The client's settings: environment variables that start with `CLIENT_`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may set; the README shows the same table."""

    model_config = SettingsConfigDict(env_prefix="CLIENT_", frozen=True)

    server: str = Field(
        default="127.0.0.1:8500", description="host:port of the model server's gRPC API"
    )
    model: str = Field(
        default="breast_cancer", description="model that /predict, /readyz and / are about"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="HTTP port")
    timeout: float = Field(
        default=5.0, gt=0, le=3600, description="seconds until a prediction must be answered"
    )
    max_body_bytes: int = Field(default=16 * 2**20, gt=0, description="largest request body")
    threads: int = Field(default=16, ge=1, description="requests that are worked on at once")
