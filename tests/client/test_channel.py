"""The connection to the model server: addresses, encryption, several servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import requests

from client import AsyncServingClient, ServingClient
from client.errors import DeadlineExceededError, NotFoundError, UnavailableError
from client.serving.channel import Tls, find_proxy, target
from tests.conftest import Starter
from tests.support import processes
from tests.support.affine import publish
from tests.support.certificates import CertificateAuthority, ssl_config
from tests.support.link import Link
from tests.support.processes import Running, free_port

X = {"x": np.ones(1, np.float32)}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("serving:8500", "dns:///serving:8500"),
        ("127.0.0.1:8500", "dns:///127.0.0.1:8500"),
        ("my-host.example:8500", "dns:///my-host.example:8500"),
        ("[::1]:8500", "dns:///[::1]:8500"),
        ("10.0.0.1:8500, 10.0.0.2:8501", "ipv4:10.0.0.1:8500,10.0.0.2:8501"),
        ("[::1]:8500,[::2]:8500", "ipv6:[::1]:8500,[::2]:8500"),
        ("dns://8.8.8.8/serving:8500", "dns://8.8.8.8/serving:8500"),
        ("unix:/run/models.sock", "unix:/run/models.sock"),
        ("unix-abstract:models", "unix-abstract:models"),
    ],
)
def test_address_becomes_a_grpc_target(address: str, expected: str) -> None:
    assert target(address) == expected


@pytest.mark.parametrize("address", ["a:1,b:2", "10.0.0.1:1,[::1]:1", "10.0.0.1:1,", "unix:/a,1"])
def test_several_addresses_must_be_all_ipv4_or_all_ipv6(address: str) -> None:
    with pytest.raises(ValueError, match="must all be IPv4 or all IPv6, such as "):
        target(address)


def test_proxy_is_not_used_for_loopback_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for address in ("127.0.0.1:8500", "localhost:8500", "[::1]:8500", "127.0.0.1:1,127.0.0.2:1"):
        assert find_proxy(address) == ""
    assert find_proxy("serving:8500") == "http://127.0.0.1:9"


def test_local_server_is_reached_despite_a_proxy(starter: Starter, base_path: Path) -> None:
    server = serve(starter, base_path)
    processes.wait_for(lambda: processes.is_serving(server.address), "the model is loaded")
    proxy = f"http://127.0.0.1:{free_port()}"
    client = starter.client(server.address, CLIENT_MODEL="m", http_proxy=proxy, no_proxy="")
    url = f"{client.address}/predict"
    assert requests.post(url, json={"instances": [1.0]}, timeout=10).status_code == 200
    remote = starter.client("192.0.2.1:8500", ready=False, http_proxy=proxy, no_proxy="")
    response = requests.post(f"{remote.address}/predict", json={"instances": [1.0]}, timeout=10)
    assert f"through the proxy {proxy}" in response.json()["error"]


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("affine") / "m"
    publish(base_path, 1)
    return base_path


def serve(starter: Starter, base_path: Path, *flags: str, port: int = 0) -> Running:
    paths = ["--model_name=m", f"--model_base_path={base_path}"]
    return starter.model_server(*paths, *flags, port=port)


def test_requests_alternate_between_servers_and_skip_a_lost_one(
    starter: Starter, base_path: Path
) -> None:
    addresses = [serve(starter, base_path).address for _ in range(2)]
    processes.wait_for(lambda: all(map(processes.is_serving, addresses)), "the model is loaded")
    links = [Link(address) for address in addresses]
    with ServingClient(",".join(link.address for link in links)) as server:
        server.predict("m", X)
        processes.wait_for(
            lambda: all(link.connections for link in links), "both servers are connected"
        )
        links[0].hold()  # calls to this server block

        def count_answers() -> int:
            answers = 0
            for _ in range(10):
                try:
                    server.predict("m", X, timeout=0.3)
                    answers += 1
                except DeadlineExceededError:
                    pass
            return answers

        assert count_answers() == 5
        links[0].release()
        assert count_answers() == 10
        links[0].close()
        assert [server.predict("m", X).outputs["y"].tolist() for _ in range(10)] == [[11.0]] * 10
    links[1].close()


def test_server_that_starts_later_is_found_within_seconds(
    starter: Starter, base_path: Path
) -> None:
    port = free_port()
    with ServingClient(f"127.0.0.1:{port}") as server:
        with pytest.raises(UnavailableError, match=f"at 127.0.0.1:{port} cannot be reached"):
            server.predict("m", X)
        running = serve(starter, base_path, port=port)
        processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")

        def answers() -> bool:
            try:
                return server.predict("m", X).version == 1
            except UnavailableError:
                return False

        processes.wait_for(answers, "the server is found", 5)


def test_connection_lost_during_a_call_raises_unavailable(
    starter: Starter, base_path: Path
) -> None:
    running = serve(starter, base_path)
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    link = Link(running.address)

    async def lose_connection() -> None:
        async with AsyncServingClient(link.address) as server:
            await server.predict("m", X)
            link.hold()
            call = asyncio.create_task(server.predict("m", X))
            while not link.is_holding:
                await asyncio.sleep(0.01)
            link.close()
            with pytest.raises(UnavailableError):
                await call

    asyncio.run(lose_connection())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def mtls_address(
    starter: Starter, base_path: Path, authority: CertificateAuthority, tmp_path: Path
) -> str:
    """The address of a server that requires client certificates."""
    key, certificate = authority.sign("server")
    config = ssl_config(
        tmp_path / "ssl.config",
        server_key=key.read_bytes(),
        server_cert=certificate.read_bytes(),
        custom_ca=authority.certificate.read_bytes(),
        client_verify=True,
    )
    running = serve(starter, base_path, f"--ssl_config_file={config}")
    return running.address.replace("127.0.0.1", "localhost")


def predicts(server: ServingClient) -> bool:
    try:
        return server.predict("m", X).version == 1
    except NotFoundError:  # still loading
        return False


def test_server_and_client_authenticate_by_certificates(
    mtls_address: str, authority: CertificateAuthority, starter: Starter
) -> None:
    key, certificate = authority.sign("client")
    with ServingClient(mtls_address, tls=Tls(authority.certificate, certificate, key)) as server:
        processes.wait_for(lambda: predicts(server), "the model is loaded")
    client = starter.client(
        mtls_address,
        CLIENT_MODEL="m",
        CLIENT_SERVER_TLS="true",
        CLIENT_SERVER_CA=str(authority.certificate),
        CLIENT_SERVER_CERT=str(certificate),
        CLIENT_SERVER_KEY=str(key),
    )
    response = requests.post(f"{client.address}/predict", json={"instances": [1.0]}, timeout=10)
    assert response.json()["predictions"] == [11.0]


@pytest.mark.parametrize("has_ca", [False, True])
def test_missing_client_certificate_or_ca_fails_the_call(
    mtls_address: str, authority: CertificateAuthority, has_ca: bool
) -> None:
    for tls in (Tls(authority.certificate if has_ca else None), None):
        with (
            ServingClient(mtls_address, tls=tls, timeout=3) as server,
            pytest.raises((UnavailableError, DeadlineExceededError)),
        ):
            server.predict("m", X)


def test_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pem"):
        ServingClient(tls=Tls(tmp_path / "nothing.pem"))


def test_unresolvable_host_raises_unavailable() -> None:
    with (
        ServingClient("nosuch.invalid:8500", timeout=5) as server,
        pytest.raises(UnavailableError, match=r"nosuch\.invalid:8500 cannot be reached"),
    ):
        server.predict("m", X)


def test_unix_socket(tmp_path: Path, starter: Starter, base_path: Path) -> None:
    path = tmp_path / "models.sock"
    serve(starter, base_path, f"--grpc_socket_path={path}", port=free_port())
    with ServingClient(f"unix:{path}") as server:
        processes.wait_for(lambda: predicts(server), "the model is loaded")
        assert server.predict("m", X).outputs["y"].tolist() == [11.0]
