from __future__ import annotations

import threading
from pathlib import Path

import pytest
from google.protobuf import text_format

from serving.config.text_proto import ConfigError
from serving.core.model_config import (
    ModelConfig,
    ServableVersionPolicy,
    check_platforms,
    parse_model_configs,
    read_config_file,
)
from serving.core.source import Source, aspired_versions
from serving.errors import ServingError


def policy(text: str) -> ServableVersionPolicy:
    return text_format.Parse(text, ServableVersionPolicy())


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    for name in ("1", "2", "007", "0", ".3", "4.tmp", "-5", "+6", "v8", " 9", "١٢", "9" * 30):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [9]),
        ("latest {}", [9]),
        ("latest { num_versions: 2 }", [7, 9]),
        ("all {}", [0, 1, 2, 6, 7, 9]),
        ("specific { versions: 1 versions: 5 }", [1]),
    ],
)
def test_policy_selects_among_numeric_directories(
    base_path: Path, text: str, expected: list[int]
) -> None:
    versions = aspired_versions(ModelConfig("m", base_path, policy(text)))
    assert list(versions) == expected
    assert all(int(path.name) == number for number, path in versions.items())


def test_missing_base_path_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        aspired_versions(ModelConfig("m", tmp_path / "nosuch"))


def test_hanging_listing_does_not_delay_stop(
    base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, may_end = threading.Event(), threading.Event()

    def hang(model: ModelConfig) -> dict[int, Path]:
        listing.set()
        may_end.wait(60)
        return {}

    aspired_models: list[str] = []
    source = Source(lambda name, versions: aspired_models.append(name), 0.01)
    source.update([ModelConfig("m", base_path)])
    monkeypatch.setattr("serving.core.source.aspired_versions", hang)
    source.start()
    assert listing.wait(20)
    stop = threading.Thread(target=source.stop, daemon=True)
    stop.start()
    stop.join(20)
    assert not stop.is_alive()
    may_end.set()
    source.poll()  # waits for the poll in progress
    assert aspired_models == ["m"]  # versions do not change after the stop


def test_negative_poll_interval_never_polls(base_path: Path) -> None:
    aspired_models: list[str] = []
    for seconds, expected in ((0, ["m"]), (-1, [])):
        aspired_models.clear()
        source = Source(lambda name, versions: aspired_models.append(name), seconds)
        source.update([ModelConfig("m", base_path)])
        source.start()
        source.stop()
        assert aspired_models == expected


def test_config_file_sets_policies_and_labels(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(
        """model_config_list {
          config {
            name: "a" base_path: "/models/a" model_platform: "tensorflow"
            model_version_policy { all {} }
            version_labels { key: "stable" value: 3 }
          }
          config { name: "b" base_path: "/models/b" model_type: TENSORFLOW }
        }"""
    )
    a, b = parse_model_configs(read_config_file(file))
    assert (a.name, a.base_path, a.version_labels) == ("a", Path("/models/a"), {"stable": 3})
    assert a.version_policy.WhichOneof("policy_choice") == "all"
    assert (b.name, b.version_labels) == ("b", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list { config { name: 3 } }", r"models.config: 1:36"),
        ("", "expected a model_config_list"),
    ],
)
def test_invalid_config_file_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config_file(file)


def test_error_names_a_missing_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nosuch\.config: .*No such file"):
        read_config_file(tmp_path / "nosuch.config")


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (['name: "a"'], r"Expected model a to have an absolute path or URI; got base_path\(\)=$"),
        (['name: "a" base_path: "x"'], r"got base_path\(\)=x"),
        (
            ['name: "a" base_path: "gs://x" model_platform: "tensorflow"'],
            r"Expected model a to have a local path; got base_path\(\)=gs://x",
        ),
        (['name: "a" base_path: "/x" model_platform: "torch"'], "Model a requests unsupported"),
        (['name: "a" base_path: "/x"'], "Illegal setting neither ModelServerConfig::model_type"),
        (
            ['name: "a" base_path: "/x" model_platform: "tensorflow" model_type: TENSORFLOW'],
            "Illegal setting both ModelServerConfig::model_type",
        ),
        (['name: "a" base_path: "/x" model_type: OTHER'], "model_type choice 2 not supported"),
        (
            ['name: "a" base_path: "/x" model_platform: "tensorflow"'] * 2,
            "Illegal to list model a multiple times in config list",
        ),
        (
            ['name: "a" base_path: "/x" model_platform: "tensorflow" logging_config {}'],
            "No request-logger-creator provided",
        ),
    ],
)
def test_invalid_config_is_rejected_with_tensorflow_servings_message(
    tmp_path: Path, configs: list[str], message: str
) -> None:
    file = tmp_path / "models.config"
    entries = " ".join(f"config {{ {config} }}" for config in configs)
    file.write_text(f"model_config_list {{ {entries} }}")
    config = read_config_file(file)

    def check() -> None:
        parse_model_configs(config)
        check_platforms(config)

    with pytest.raises(ServingError, match=message):
        check()
