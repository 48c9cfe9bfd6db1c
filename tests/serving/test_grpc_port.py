"""The gRPC port: TLS, Unix sockets, threads, deadlines and channel arguments."""

from __future__ import annotations

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from serving.model_servers.addresses import AddressError, bind_socket
from tests.conftest import Starter
from tests.contract.tf1_models import counter, export
from tests.serving.conftest import QUICK, FailedStart, Serve, config_flag, model_flags
from tests.support import forked
from tests.support.affine import publish
from tests.support.caller import Caller, model_config, raises_rpc_error
from tests.support.certificates import CertificateAuthority, ssl_config
from tests.support.processes import free_port, wait_for


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def tls_server(base_path: Path, authority: CertificateAuthority, serve: Serve) -> str:
    publish(base_path, 1)
    key, certificate = read_all(*authority.sign("server"))
    config = ssl_config(base_path.parent / "ssl", server_key=key, server_cert=certificate)
    return serve(*model_flags(base_path), f"--ssl_config_file={config}").running.address


@pytest.fixture
def mutual_tls(base_path: Path, authority: CertificateAuthority) -> str:
    """The flag of a config that requires client certificates signed by the authority."""
    key, certificate = read_all(*authority.sign("server"))
    config = ssl_config(
        base_path.parent / "ssl",
        server_key=key,
        server_cert=certificate,
        custom_ca=authority.certificate.read_bytes(),
        client_verify=True,
    )
    return f"--ssl_config_file={config}"


@pytest.fixture
def mutual_tls_server(base_path: Path, mutual_tls: str, serve: Serve) -> str:
    publish(base_path, 1)
    return serve(*model_flags(base_path), mutual_tls).running.address


def read_all(*files: Path) -> list[bytes]:
    return [file.read_bytes() for file in files]


def credentials(trusted: CertificateAuthority, *key_pair: Path) -> grpc.ChannelCredentials:
    """Return a client's credentials, with a key and its certificate if given."""
    return grpc.ssl_channel_credentials(*read_all(trusted.certificate, *key_pair))


def is_answered(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    # Certificates are for localhost, not for a socket's path.
    options = [("grpc.ssl_target_name_override", "localhost")] if credentials is not None else []
    with Caller(address, credentials, options) as caller:
        try:
            return caller.predict_x(timeout=2) == ([11.0], 1)
        except grpc.RpcError as error:
            if error.code() not in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                raise
            return False


def test_tls_accepts_clients_that_trust_the_authority(
    tls_server: str, authority: CertificateAuthority
) -> None:
    assert is_answered(tls_server, credentials(authority))


def test_tls_rejects_untrusting_and_plaintext_clients(tls_server: str, tmp_path: Path) -> None:
    other = CertificateAuthority(tmp_path / "other")
    assert not is_answered(tls_server, credentials(other))
    assert not is_answered(tls_server, None)


def test_mutual_tls_accepts_certificates_signed_by_the_authority(
    mutual_tls_server: str, authority: CertificateAuthority
) -> None:
    client = credentials(authority, *authority.sign("client"))
    assert is_answered(mutual_tls_server, client)


def test_mutual_tls_rejects_other_and_missing_certificates(
    mutual_tls_server: str, authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority(tmp_path / "other").sign("client")
    assert not is_answered(mutual_tls_server, credentials(authority, *other))
    assert not is_answered(mutual_tls_server, credentials(authority))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected server_key in PEM, got nothing"),
        ({"server_key": b"k"}, "expected server_cert in PEM, got nothing"),
        (
            {"server_key": b"k", "server_cert": b"c", "client_verify": True},
            "client_verify needs custom_ca",
        ),
        (
            {"server_key": b"k", "server_cert": b"c"},
            "expected a server_key and a server_cert in PEM that match",
        ),
    ],
)
def test_invalid_ssl_config_is_rejected(
    base_path: Path, failed_start: FailedStart, fields: dict[str, bytes | bool], message: str
) -> None:
    publish(base_path, 1)
    config = ssl_config(base_path.parent / "ssl", **fields)
    assert message in failed_start(
        "--port=0", *model_flags(base_path), f"--ssl_config_file={config}"
    )


def has_ipv6() -> bool:
    try:
        bind_socket("::1", 0).close()
    except AddressError:
        return False
    return True


@pytest.mark.parametrize("host", ["127..0.1", "a" * 64])
def test_error_names_an_invalid_address(host: str) -> None:
    with pytest.raises(AddressError, match=f"{host}:8500: a label is empty or too long"):
        bind_socket(host, 8500)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_server_listens_on_an_ipv6_address(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    rest_port = free_port()
    flags = ("--bind_address=::1", f"--rest_api_port={rest_port}")
    port = serve(*model_flags(base_path), *flags).running.address.rpartition(":")[2]
    with Caller(f"[::1]:{port}") as caller:
        assert caller.predict_x() == ([11.0], 1)
    assert requests.get(f"http://[::1]:{rest_port}/v1/models/m", timeout=5).ok


def test_server_listens_on_a_unix_socket_alone(base_path: Path, starter: Starter) -> None:
    publish(base_path, 1)
    socket = base_path.parent / "socket"
    running = forked.start(
        starter.folder / "log", *QUICK, *model_flags(base_path), "--port=0",
        f"--grpc_socket_path={socket}",
    )  # fmt: skip
    starter.running.append(running)
    wait_for(socket.exists, "the socket exists")
    assert stat.S_ISSOCK(socket.stat().st_mode)
    with Caller(f"unix:{socket}") as caller:
        assert caller.predict_x() == ([11.0], 1)
    assert running.stop() == 0
    (line,) = [line for line in running.output().splitlines() if "Running gRPC" in line]
    assert line.endswith(f"at unix:{socket} ...")


def test_unix_socket_that_cannot_be_created_is_an_error(
    base_path: Path, failed_start: FailedStart
) -> None:
    publish(base_path, 1)
    log = failed_start("--port=0", *model_flags(base_path), "--grpc_socket_path=/nosuch/socket")
    assert "cannot listen on unix:/nosuch/socket: expected a path of at most 107 bytes" in log


def test_server_listens_on_a_unix_socket_and_a_port(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    socket = base_path.parent / "socket"
    port = free_port()  # with 0, the server would open no port
    server = serve(*model_flags(base_path), f"--grpc_socket_path={socket}", f"--port={port}")
    assert server.predict_x() == ([11.0], 1)
    with Caller(f"unix:{socket}") as caller:
        assert caller.predict_x() == ([11.0], 1)


def test_unix_socket_uses_the_same_tls_as_the_port(
    base_path: Path, authority: CertificateAuthority, mutual_tls: str, serve: Serve
) -> None:
    publish(base_path, 1)
    socket, port = base_path.parent / "socket", free_port()
    serve(*model_flags(base_path), f"--grpc_socket_path={socket}", f"--port={port}", mutual_tls)
    assert is_answered(f"unix:{socket}", credentials(authority, *authority.sign("client")))
    assert not is_answered(f"unix:{socket}", credentials(authority))
    assert not is_answered(f"unix:{socket}", None)


def test_grpc_channel_arguments_are_applied(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    arguments = "grpc.max_receive_message_length=1000,grpc.primary_user_agent=x,a=99999999999"
    server = serve(*model_flags(base_path), f"--grpc_channel_arguments={arguments}")
    assert server.predict_x() == ([11.0], 1)
    with pytest.raises(grpc.RpcError) as error:
        server.predict_x([1.0] * 1000)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_max_connection_age_closes_connections_between_calls(base_path: Path, serve: Serve) -> None:
    """Clients that reconnect also find servers that started later."""
    publish(base_path, 1)
    arguments = "grpc.max_connection_age_ms=300,grpc.max_connection_age_grace_ms=5000"
    server = serve(*model_flags(base_path), f"--grpc_channel_arguments={arguments}")
    process = psutil.Process(server.running.process.pid)
    client_ports: set[int] = set()
    end = time.monotonic() + 20
    while len(client_ports) < 3 and time.monotonic() < end:
        assert server.predict_x() == ([11.0], 1)
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_ESTABLISHED and connection.raddr:
                client_ports.add(connection.raddr.port)
        time.sleep(0.05)
    assert len(client_ports) >= 3


@pytest.mark.parametrize(("threads", "is_concurrent"), [(1, False), (4, True)])
def test_grpc_max_threads_limits_concurrent_requests(
    base_path: Path, serve: Serve, threads: int, is_concurrent: bool
) -> None:
    seconds, calls = 1.0, 4
    publish(base_path, 1, seconds=seconds)
    server = serve(*model_flags(base_path), f"--grpc_max_threads={threads}")
    with ThreadPoolExecutor(calls) as pool:
        started = time.monotonic()
        list(pool.map(lambda _: server.predict_x(), range(calls)))
        duration = time.monotonic() - started
    assert (duration < calls * seconds) is is_concurrent


def test_call_is_not_computed_after_its_deadline(tmp_path: Path, serve: Serve) -> None:
    """The call waits for the only thread until after its deadline."""
    publish(tmp_path / "slow", 1, seconds=2.0)
    export(tmp_path / "counter" / "1", counter)
    entries = [model_config(tmp_path / name) for name in ("slow", "counter")]
    server = serve(config_flag(tmp_path, *entries), "--grpc_max_threads=1")

    def increment(timeout: float) -> float:
        response = server.predict("counter", {}, timeout, signature="incr_counter")
        return float(response.outputs["output"].float_val[0])

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.predict_x, model="slow")
        time.sleep(0.5)
        with raises_rpc_error("DEADLINE_EXCEEDED"):
            increment(timeout=0.3)
        slow.result()
    assert increment(timeout=30) == 1.0
