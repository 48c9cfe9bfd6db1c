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
def taken() -> Iterator[int]:
    """The first of two neighbouring ports that something listens on."""
    for first in range(20000, 60000, 7):
        with ExitStack() as listeners:
            try:
                for port in (first, first + 1):
                    listeners.enter_context(socket.create_server((LOCAL, port)))
            except OSError:
                continue
            yield first
            return


def message(variable: str, host: str, port: int, *in_use: int) -> str:
    with pytest.raises(click.ClickException) as error:
        check_port(variable, host, port, in_use)
    return error.value.message


@pytest.mark.parametrize("host", [LOCAL, "0.0.0.0"])
def test_the_port_that_is_proposed_instead_of_a_taken_one_is_free(host: str, taken: int) -> None:
    said = message("PORT", host, taken)
    assert said.startswith(f"port {taken} is taken (Address already in use); choose another: ")
    found = re.search(r"make run PORT=(\d+)$", said)
    assert found is not None
    proposed = int(found[1])
    assert proposed > taken + 1
    check_port("PORT", host, proposed)
    assert f"PORT={proposed}" not in message("PORT", host, taken, proposed)


def test_the_last_port_has_no_next_one() -> None:
    with socket.socket() as listener:
        try:
            listener.bind((LOCAL, 65535))
        except OSError:
            pytest.skip("port 65535 is in use by something else")
        listener.listen()
        assert message("PORT", LOCAL, 65535).endswith("; choose another: make run PORT=NUMBER")


def test_two_servers_cannot_have_one_port() -> None:
    said = message("SERVING_PORT", LOCAL, 8080, 8080)
    assert said.startswith("port 8080 is used twice; choose another: make run SERVING_PORT=")


def test_the_port_that_is_proposed_for_the_client_is_not_the_model_server_s(taken: int) -> None:
    free = next_free_port(LOCAL, taken)
    flags = [f"--port={taken}", f"--serving-port={free}"]
    output = CliRunner().invoke(main, flags).output
    assert f"Error: port {taken} is taken" in output
    assert f"make run PORT={free}\n" not in output
    output = CliRunner().invoke(main, [f"--port={free}", f"--serving-port={free}"]).output
    assert f"Error: port {free} is used twice; choose another: make run SERVING_PORT=" in output


def test_an_address_of_another_machine_is_refused_by_name() -> None:
    assert message("PORT", "192.0.2.1", 8080) == "HOST=192.0.2.1 is not an address of this machine"
    assert message("PORT", "no such host", 8080).startswith("HOST=no such host is not an address:")
    for host in ("a..b", "a" * 64):
        assert message("PORT", host, 8080) == (
            f"HOST={host} is not an address: a label is empty or too long"
        )
