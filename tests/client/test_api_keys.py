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
    path.write_text(f"# callers\n\nshop {hash_key(key)}  # since spring\n")
    return path


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_key_is_read_from_either_header(file: Path, key: str) -> None:
    api_keys = ApiKeys(file)
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key}"},
        {"x-api-key": key},
        {"authorization": basic(key)},
    ):
        assert api_keys.authenticate(headers) == "shop"


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
def test_missing_or_unknown_key_is_rejected(file: Path, headers: dict[str, str]) -> None:
    with pytest.raises(ClientError) as error:
        ApiKeys(file).authenticate(headers)
    assert error.value.status == 401


def test_hash_is_not_accepted_as_a_key(file: Path, key: str) -> None:
    with pytest.raises(ClientError):
        ApiKeys(file).authenticate({"x-api-key": hash_key(key)})


def test_keys_are_rotated_without_a_restart(
    file: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)
    api_keys, successor = ApiKeys(file), new_key()
    file.write_text(f"shop {hash_key(key)}\nshop {hash_key(successor)}\n")
    assert (
        api_keys.authenticate({"x-api-key": key})
        == api_keys.authenticate({"x-api-key": successor})
        == "shop"
    )
    file.write_text(f"shop {hash_key(successor)}\n")
    assert api_keys.authenticate({"x-api-key": successor}) == "shop"
    with pytest.raises(ClientError):
        api_keys.authenticate({"x-api-key": key})


def test_invalid_or_missing_file_keeps_the_previous_keys(
    file: Path, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)
    api_keys = ApiKeys(file)
    for damage in (lambda: file.write_text("nonsense"), file.unlink):
        damage()
        assert api_keys.authenticate({"x-api-key": key}) == "shop"
        with pytest.raises(ClientError):
            api_keys.authenticate({"x-api-key": "nonsense"})
    assert caplog.text.count("line 1: expected a name") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop plaintext", "line 1: expected a name and the SHA-256"),
        (f"\n{'0' * 64}", "line 2: expected"),
        (f"a b {'0' * 64}", "line 1: expected"),
    ],
)
def test_invalid_line_or_missing_file_is_reported(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(KeysFileError, match=message):
        ApiKeys(file)
    with pytest.raises(KeysFileError, match="No such file"):
        ApiKeys(tmp_path / "nosuch")


def test_new_keys_are_long_and_unique() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) > 40
