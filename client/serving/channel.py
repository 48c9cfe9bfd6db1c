"""Channels to model servers.

Create a channel in the process that uses it: it must not be carried over a fork.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

import grpc
import grpc.aio

DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_TIMEOUT = 5.0

# Called after each call with its name, status code and duration in seconds.
Observer = Callable[[str, grpc.StatusCode, float], None]

# Format: https://github.com/grpc/grpc/blob/master/doc/service_config.md
# Calls that fail with UNAVAILABLE are retried within a shared budget, so that a server that is down
# does not get three times as many calls.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "tensorflow.serving.PredictionService"},
                {"service": "tensorflow.serving.ModelService"},
            ],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # The model server decides how large a message may be.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Reconnect to a restarted server within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # gRPC resolves a name again after a lost connection, but at most this often.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # Use DNS for addresses only, not for service configs.
    ("grpc.service_config_disable_resolution", 1),
    # Detect a vanished peer by pings, as often as servers allow by default, and by data that is not
    # acknowledged within the timeout.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


# https://github.com/grpc/grpc/blob/master/doc/naming.md
SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")


@dataclass(frozen=True)
class Tls:
    """The files of an encrypted connection.

    Attributes:
        ca: PEM file of the authorities that may sign the server's certificate; None for the
            system's.
        cert, key: PEM files of the client's own certificate, for servers that ask for one.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            OSError: one cannot be read.
        """
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))


def target(address: str) -> str:
    """Return the gRPC target of an address.

    Args:
        address: `host:port`, whose host may resolve to several addresses; several `ip:port`,
            separated by commas; or a gRPC target with its scheme, such as `unix:/run/models.sock`.

    Raises:
        ValueError: several addresses are not all IPv4 or all IPv6.
    """
    addresses = [part.strip() for part in address.split(",")]
    if len(addresses) == 1:
        return address if has_scheme(address) else f"dns:///{address}"
    versions = {_ip_version(part) for part in addresses}
    if len(versions) != 1 or None in versions:
        raise ValueError(
            "several addresses must all be IPv4 or all IPv6, such as 10.0.0.1:8500,10.0.0.2:8500; "
            f"got {address} (a single name may resolve to several addresses)"
        )
    return f"ipv{versions.pop()}:{','.join(addresses)}"


def split_addresses(address: str) -> list[str]:
    """Split comma-separated addresses.

    Raises:
        ValueError: several addresses are not all IPv4 or all IPv6.
    """
    target(address)
    return [part.strip() for part in address.split(",")]


def channel(address: str, tls: Tls | None) -> grpc.Channel:
    """Return a channel for threads; it connects on first use."""
    options = _options(address)
    if tls is None:
        return grpc.insecure_channel(target(address), options=options)
    return grpc.secure_channel(target(address), tls.credentials(), options=options)


def aio_channel(address: str, tls: Tls | None, authority: str = "") -> grpc.aio.Channel:
    """Return a channel for the running event loop; it connects on first use.

    Args:
        address: as for `target`.
        tls: encryption of the connection; None for plain text.
        authority: `host:port` of the server's certificate, if not the address.
    """
    options = _options(address)
    if authority:
        options.append(("grpc.default_authority", authority))
    if tls is None:
        return grpc.aio.insecure_channel(target(address), options=options)
    if authority:
        name = authority.rpartition(":")[0].strip("[]")
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(target(address), tls.credentials(), options=options)


def find_proxy(address: str) -> str:
    """Return the HTTP proxy that calls to an address go through; empty if there is none."""
    if is_loopback(address) or has_scheme(address):
        return ""
    host = address.partition(",")[0].rpartition(":")[0].strip("[]")
    proxies = getproxies()
    if proxy_bypass(host):
        return ""
    return proxies.get("grpc") or proxies.get("https") or proxies.get("http") or ""


def is_loopback(address: str) -> bool:
    """Return whether all addresses are this machine's own."""
    hosts = [part.strip().rpartition(":")[0].strip("[]") for part in address.split(",")]
    return all(host == "localhost" or _is_loopback_ip(host) for host in hosts)


def has_scheme(address: str) -> bool:
    """Return whether an address is a gRPC target with its scheme."""
    return address.partition(":")[0] in SCHEMES


def _options(address: str) -> list[tuple[str, Any]]:
    # By default gRPC sends even loopback calls through the proxy.
    return [*OPTIONS, ("grpc.enable_http_proxy", 0)] if is_loopback(address) else [*OPTIONS]


def _is_loopback_ip(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path else None


def _ip_version(address: str) -> int | None:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None
