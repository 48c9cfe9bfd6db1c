from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import click
import pytest
from click.testing import CliRunner

from launcher.__main__ import main
from launcher.ports import check_port, next_free_port

LOCAL = "127.0.0.1"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """The first of two consecutive ports that are in use."""
    for first in range(20000, 60000, 7):
        with ExitStack() as listeners:
            try:
                for port in (first, first + 1):
                    listeners.enter_context(socket.create_server((LOCAL, port)))
            except OSError:
                continue
            yield first
            return


def port_error(variable: str, host: str, port: int, *in_use: int) -> str:
    with pytest.raises(click.ClickException) as error:
        check_port(variable, host, port, in_use)
    return error.value.message


@pytest.mark.parametrize("host", [LOCAL, "0.0.0.0"])
def test_suggested_port_is_free(host: str, taken_port: int) -> None:
    message = port_error("PORT", host, taken_port)
    assert message.startswith(
        f"port {taken_port} is taken (Address already in use); choose another: "
    )
    match = re.search(r"make run PORT=(\d+)$", message)
    assert match is not None
    suggested = int(match[1])
    assert suggested > taken_port + 1
    check_port("PORT", host, suggested)
    assert f"PORT={suggested}" not in port_error("PORT", host, taken_port, suggested)


def test_no_port_is_suggested_beyond_the_last_one() -> None:
    with socket.socket() as listener:
        try:
            listener.bind((LOCAL, 65535))
        except OSError:
            pytest.skip("port 65535 is in use by something else")
        listener.listen()
        assert port_error("PORT", LOCAL, 65535).endswith("; choose another: make run PORT=NUMBER")


def test_two_servers_cannot_share_a_port() -> None:
    message = port_error("SERVING_PORT", LOCAL, 8080, 8080)
    assert message.startswith("port 8080 is used twice; choose another: make run SERVING_PORT=")


def test_port_suggested_for_the_client_is_not_the_model_servers(taken_port: int) -> None:
    free = next_free_port(LOCAL, taken_port)
    flags = [f"--port={taken_port}", f"--serving-port={free}"]
    output = CliRunner().invoke(main, flags).output
    assert f"Error: port {taken_port} is taken" in output
    assert f"make run PORT={free}\n" not in output
    output = CliRunner().invoke(main, [f"--port={free}", f"--serving-port={free}"]).output
    assert f"Error: port {free} is used twice; choose another: make run SERVING_PORT=" in output


def test_error_names_an_invalid_host() -> None:
    assert (
        port_error("PORT", "192.0.2.1", 8080) == "HOST=192.0.2.1 is not an address of this machine"
    )
    assert port_error("PORT", "no such host", 8080).startswith(
        "HOST=no such host is not an address:"
    )
    for host in ("a..b", "a" * 64):
        assert port_error("PORT", host, 8080) == (
            f"HOST={host} is not an address: a label is empty or too long"
        )
