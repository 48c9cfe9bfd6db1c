from __future__ import annotations

import base64
from pathlib import Path

import pytest

from client.errors import ClientError
from client.http import api_keys as keys
from client.http.api_keys import ApiKeys, KeysFileError, hash_key, new_key


@pytest.fixture
def key() -> str:
    return new_key()


@pytest.fixture
def file(tmp_path: Path, key: str) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may ask\n\nshop {hash_key(key)}  # since spring\n")
    return path


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_a_key_is_taken_from_each_header_that_brings_one(file: Path, key: str) -> None:
    known = ApiKeys(file)
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key}"},
        {"x-api-key": key},
        {"authorization": basic(key)},
    ):
        assert known.authenticate(headers) == "shop"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic not base64"},
        {"authorization": "Digest x"},
        {"authorization": basic("")},
        {"x-api-key": "k\udcff".encode("utf-8", "surrogateescape").decode("latin-1")},
    ],
)
def test_no_key_and_a_wrong_key_are_401(file: Path, headers: dict[str, str]) -> None:
    with pytest.raises(ClientError) as error:
        ApiKeys(file).authenticate(headers)
    assert error.value.status == 401


def test_the_hash_is_no_key(file: Path, key: str) -> None:
    with pytest.raises(ClientError):
        ApiKeys(file).authenticate({"x-api-key": hash_key(key)})


def test_keys_are_rotated_without_a_restart(
    file: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)
    known, successor = ApiKeys(file), new_key()
    file.write_text(f"shop {hash_key(key)}\nshop {hash_key(successor)}\n")
    assert (
        known.authenticate({"x-api-key": key})
        == known.authenticate({"x-api-key": successor})
        == "shop"
    )
    file.write_text(f"shop {hash_key(successor)}\n")
    assert known.authenticate({"x-api-key": successor}) == "shop"
    with pytest.raises(ClientError):
        known.authenticate({"x-api-key": key})


def test_a_file_that_became_wrong_locks_nobody_out_and_lets_nobody_in(
    file: Path, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)
    known = ApiKeys(file)
    for break_it in (lambda: file.write_text("nonsense"), file.unlink):
        break_it()
        assert known.authenticate({"x-api-key": key}) == "shop"
        with pytest.raises(ClientError):
            known.authenticate({"x-api-key": "nonsense"})
    assert caplog.text.count("line 1: expected a name") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop plaintext", "line 1: expected a name and the SHA-256"),
        (f"\n{'0' * 64}", "line 2: expected"),
        (f"a b {'0' * 64}", "line 1: expected"),
    ],
)
def test_a_wrong_file_is_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(KeysFileError, match=message):
        ApiKeys(file)
    with pytest.raises(KeysFileError, match="No such file"):
        ApiKeys(tmp_path / "nosuch")


def test_keys_are_long_and_never_the_same() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) > 40
