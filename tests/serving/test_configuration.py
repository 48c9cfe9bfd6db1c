"""Models and labels are configured by a file, which may be polled, and by reloads."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.core.config_poller import ConfigPoller
from serving.core.manager import Manager, ManagerOptions
from serving.core.model_config import read_config_file
from serving.core.server_core import ServerCore
from serving.core.source import Source
from tests.serving.conftest import RunningServer, Serve, model_flags
from tests.support.affine import publish
from tests.support.caller import Caller, model_config, models_config, raises_rpc_error
from tests.support.processes import wait_for

POLLED = "--model_config_file_poll_wait_seconds=0.1"
ALL = "model_version_policy { all {} }"
FREE_LABELS = "--allow_version_labels_for_unavailable_models"


def labels(**versions: int) -> str:
    entries = (f'version_labels {{ key: "{k}" value: {v} }}' for k, v in versions.items())
    return " ".join((ALL, *entries))


def write_models(config: Path, *entries: str) -> None:
    write(config, models_config(*entries))


def write(config: Path, text: str) -> None:
    """Write atomically, so that the server never reads a partial file."""
    new = config.with_suffix(".new")
    new.write_text(text)
    new.rename(config)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "models.config"


@pytest.fixture
def two_versions(base_path: Path, serve: Serve) -> Caller:
    """A server with versions 1 and 2 of m, and no labels."""
    publish(base_path, 1)
    publish(base_path, 2)
    server = serve(*model_flags(base_path))
    server.reload(models_config(model_config(base_path, ALL)))
    wait_for(lambda: server.states() == {2: "AVAILABLE", 1: "AVAILABLE"}, "both versions")
    return server


def test_config_file_may_list_several_models(tmp_path: Path, config: Path, serve: Serve) -> None:
    for version, name in enumerate(("a", "b", "c"), start=1):
        publish(tmp_path / name, version)
    write_models(config, *(model_config(tmp_path / name) for name in ("a", "b", "c")))
    server = serve(f"--model_config_file={config}")
    # All models are available as soon as the port is open.
    assert [server.predict_x(model=name)[1] for name in ("a", "b", "c")] == [1, 2, 3]


def test_polled_config_file_adds_removes_and_relabels_models(
    tmp_path: Path, config: Path, serve: Serve
) -> None:
    for name in ("a", "b"):
        publish(tmp_path / name, 1)
        publish(tmp_path / name, 2)
    write_models(config, model_config(tmp_path / "a", labels(stable=1)))
    server = serve(f"--model_config_file={config}", POLLED, FREE_LABELS)
    wait_for(lambda: server.is_available(1, "a"), "both versions of a")
    assert server.predict_x(model="a", label="stable")[1] == 1
    write_models(config, *(model_config(tmp_path / name, labels(stable=2)) for name in ("a", "b")))
    wait_for(lambda: server.is_available(2, "b"), "b is added")
    assert [server.predict_x(model=name, label="stable")[1] for name in ("a", "b")] == [2, 2]
    write_models(config, model_config(tmp_path / "b"))
    wait_for(lambda: set(server.states("a").values()) == {"END"}, "a is removed")
    with raises_rpc_error("NOT_FOUND", "Servable not found for request: Latest(a)"):
        server.predict_x(model="a")


def has_logged(server: RunningServer, times: int) -> bool:
    return server.running.output().count("keeping the current configuration") == times


def test_invalid_config_file_changes_nothing_and_is_logged_once(
    base_path: Path, tmp_path: Path, config: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    publish(tmp_path / "n", 1)
    write_models(config, model_config(base_path))
    server = serve(f"--model_config_file={config}", POLLED)
    for number, text in enumerate(
        (
            "model_config_list { nonsense",
            models_config(f'name: "m" base_path: "{base_path.name}"'),
            models_config(model_config(base_path, labels(stable=7))),
            models_config(model_config(base_path), model_config(tmp_path / "nosuch")),
        ),
        start=1,
    ):
        write(config, text)
        wait_for(functools.partial(has_logged, server, number), f"{text} is logged")
        time.sleep(0.3)
        assert has_logged(server, number)
        assert server.predict_x() == ([11.0], 1)
    write_models(config, model_config(base_path), model_config(tmp_path / "n"))
    wait_for(lambda: server.is_available(1, "n"), "the corrected file is applied")


def test_config_file_is_polled_while_new_models_load(
    tmp_path: Path, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    may_load = threading.Event()

    def load(name: str, version: int, path: Path) -> Any:
        if name == "slow":
            may_load.wait(60)
        if name == "bad":
            raise ValueError
        return SimpleNamespace(close=lambda: None)

    for name in ("a", "bad", "slow", "corrected"):
        (tmp_path / name / "1").mkdir(parents=True)

    def on_config() -> None:
        # The bad model fails before the reload checks for failed models.
        manager.wait_until_settled({"bad"} & set(core.model_names))

    manager = Manager(load, ManagerOptions(max_num_load_retries=0, num_load_threads=2))
    core = ServerCore(manager, Source(manager.aspire, 0), on_config=on_config)
    write_models(config, model_config(tmp_path / "a"))
    core.start(read_config_file(config), lambda: False)
    write_models(config, *(model_config(tmp_path / name) for name in ("bad", "slow")))
    poller = ConfigPoller(core, config, 0.05)
    poller.start()
    wait_for(lambda: manager.harnesses("slow"), "the new models load")
    write_models(config, model_config(tmp_path / "corrected"))
    wait_for(lambda: core.is_available("corrected"), "the corrected file is applied")
    assert "keeping the current" not in caplog.text
    poller.stop()
    may_load.set()
    manager.close(20)


def test_reload_returns_once_new_models_are_available(
    base_path: Path, tmp_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    entries = [model_config(base_path)]
    for number in range(5):
        publish(tmp_path / f"new{number}", 1)
        entries.append(model_config(tmp_path / f"new{number}"))
        server.reload(models_config(*entries))
        assert server.predict_x(model=f"new{number}") == ([11.0], 1)


@pytest.mark.parametrize(
    ("entries", "code", "details"),
    [
        ('name: "m" base_path: "m"', "INVALID_ARGUMENT",
         "Expected model m to have an absolute path or URI; got base_path()=m"),
        ('name: "m" base_path: ""', "INVALID_ARGUMENT", "got base_path()="),
        ('name: "m" base_path: "{m}" model_type: TENSORFLOW', "INVALID_ARGUMENT",
         "Illegal setting both ModelServerConfig::model_type (deprecated) and "),
        ('name: "m" base_path: "{m}" version_labels { key: "a" value: 9 }', "FAILED_PRECONDITION",
         "Request to assign label to version 9 of model m, which is not currently available for"),
        ('name: "n" base_path: "{m}/nosuch"', "FAILED_PRECONDITION",
         "Model n cannot be served from base path {m}/nosuch: No such file or directory"),
        ('name: "n" base_path: "{m}/1"', "FAILED_PRECONDITION", "no version to serve was found"),
        ('name: "n" base_path: "{m}/1/saved_model.pb"', "FAILED_PRECONDITION", "Not a directory"),
    ],
)  # fmt: skip
def test_rejected_reload_changes_nothing(
    base_path: Path, serve: Serve, entries: str, code: str, details: str
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    with raises_rpc_error(code, details.replace("{m}", str(base_path))):
        server.reload(models_config(entries.replace("{m}", str(base_path))))
    assert server.predict_x() == ([11.0], 1)
    assert server.states("n") == {}
    server.reload(models_config(model_config(base_path)))  # later reloads succeed


@pytest.mark.parametrize(
    ("name", "more", "code", "details"),
    [
        ("m", "", "INVALID_ARGUMENT",
         "Illegal to change a model's platform. For model m platform was tensorflow and new "
         "platform requested is torch"),
        ("n", "", "INVALID_ARGUMENT", "Model n requests unsupported platform torch"),
        ("n", 'version_labels { key: "a" value: 9 }', "FAILED_PRECONDITION",
         "Request to assign label to version 9 of model n"),
    ],
)  # fmt: skip
def test_unsupported_platform_is_rejected(
    base_path: Path, serve: Serve, name: str, more: str, code: str, details: str
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    entry = f'name: "{name}" base_path: "{base_path}" model_platform: "torch" {more}'
    with raises_rpc_error(code, details):
        server.reload(f"model_config_list {{ config {{ {entry} }} }}")
    assert server.predict_x() == ([11.0], 1)


def test_reload_returns_metric_increases(base_path: Path, tmp_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    publish(tmp_path / "n", 1)
    server = serve(*model_flags(base_path))
    server.predict_x()
    loads = "/tensorflow/cc/saved_model/load_attempt_count"
    requests = "/tensorflow/serving/request_count"
    both = models_config(model_config(base_path), model_config(tmp_path / "n"))
    response = server.reload(both, metric_names=[loads, requests, "nosuch"])
    assert {metric.name: metric.int64_value_increase for metric in response.metric} == {
        loads: 1, requests: 0, "nosuch": 0,
    }  # fmt: skip


def test_config_without_a_model_list_is_rejected(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    for config in ("", "custom_model_config {}"):
        with raises_rpc_error("INVALID_ARGUMENT", "Only ModelConfigList is currently supported"):
            server.reload(config)
    assert server.predict_x() == ([11.0], 1)


def test_reload_reports_a_new_model_that_fails_to_load(
    base_path: Path, tmp_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    (tmp_path / "bad" / "1").mkdir(parents=True)
    server = serve(*model_flags(base_path))
    both = models_config(model_config(base_path), model_config(tmp_path / "bad"))
    with raises_rpc_error("UNKNOWN", "{name: bad version: 1} due to error"):
        server.reload(both)
    assert server.predict_x() == ([11.0], 1)
    publish(tmp_path / "bad", 2)
    wait_for(lambda: server.is_available(2, "bad"), "the model is configured in spite of the error")


def test_failed_model_loads_once_repaired_and_added_again(
    base_path: Path, tmp_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    (tmp_path / "bad" / "1").mkdir(parents=True)
    server = serve(*model_flags(base_path))
    good_only, bad = models_config(model_config(base_path)), model_config(tmp_path / "bad")
    with raises_rpc_error("UNKNOWN", "{name: bad version: 1} due to error"):
        server.reload(models_config(model_config(base_path), bad))
    server.reload(good_only)
    assert server.statuses("bad")[1].status.error_code  # the status keeps the reason
    (tmp_path / "bad" / "1").rmdir()
    publish(tmp_path / "bad", 1)
    server.reload(models_config(model_config(base_path), bad))
    assert server.predict_x(model="bad") == ([11.0], 1)


def test_concurrent_reloads_leave_one_of_the_configs(
    base_path: Path, tmp_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    configs = []
    for name in ("a", "b"):
        publish(tmp_path / name, 1)
        configs.append(models_config(model_config(base_path), model_config(tmp_path / name)))
    server = serve(*model_flags(base_path))
    for _ in range(5):
        threads = [threading.Thread(target=server.reload, args=[config]) for config in configs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_for(
            lambda: server.is_available(1, "a") != server.is_available(1, "b"),
            "exactly one config is applied",
        )
        assert server.predict_x() == ([11.0], 1)


def test_label_is_assigned_moved_and_removed(base_path: Path, two_versions: Caller) -> None:
    server = two_versions
    for number in (1, 2):
        server.reload(models_config(model_config(base_path, labels(stable=number))))
        assert server.predict_x(label="stable") == ([10.0 + number], number)
    with raises_rpc_error("INVALID_ARGUMENT", "Unrecognized servable version label: canary"):
        server.predict_x(label="canary")
    server.reload(models_config(model_config(base_path, ALL)))
    with raises_rpc_error("INVALID_ARGUMENT", "Unrecognized servable version label: stable"):
        server.predict_x(label="stable")


def test_rejected_label_change_keeps_the_old_assignment(
    base_path: Path, two_versions: Caller
) -> None:
    server = two_versions
    server.reload(models_config(model_config(base_path, labels(stable=1))))
    with raises_rpc_error("FAILED_PRECONDITION", "Request to assign label to version 9 of model m"):
        server.reload(models_config(model_config(base_path, labels(stable=9))))
    assert server.predict_x(label="stable") == ([11.0], 1)


def test_flag_allows_labels_for_unavailable_versions(
    base_path: Path, config: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    write_models(config, model_config(base_path, labels(stable=1, canary=2)))
    server = serve(f"--model_config_file={config}", FREE_LABELS)
    with raises_rpc_error("NOT_FOUND", "Servable not found for request: Specific(m, 2)"):
        server.predict_x(label="canary")
    publish(base_path, 2)
    wait_for(lambda: server.is_available(2), "version 2")
    assert server.predict_x(label="canary") == ([12.0], 2)
    assert server.predict_x(label="stable") == ([11.0], 1)


def test_base_paths_outside_the_reload_root_are_rejected(tmp_path: Path, serve: Serve) -> None:
    models, secret = tmp_path / "models", tmp_path / "secret"
    for path in (models / "m", models / "n", secret / "m"):
        publish(path, 1)
    (models / "link").symlink_to(secret)
    server = serve(*model_flags(models / "m"), f"--reload_root={models}")
    (models / "loop").symlink_to(models / "loop")
    inside = ("loop", "loop/m", "a/" * 100_000)  # a symlink loop, and a path that is too long
    outside = (
        "/", "/proc/self", f"{secret}/m", f"file://{secret}/m", f"{models}/../secret/m",
        f"{models}/link/m",
    )  # fmt: skip
    for base_path in (*outside, *(f"{models}/{name}" for name in inside)):
        entries = model_config(models / "m"), f'name: "s" base_path: "{base_path}"'
        details = f"below {models} (--reload_root); got base_path()={base_path[:500]}"
        with raises_rpc_error("PERMISSION_DENIED", details):
            server.reload(models_config(*entries))
    assert server.predict_x() == ([11.0], 1)
    server.reload(models_config(model_config(models / "m"), model_config(models / "n")))
    assert server.predict_x(model="n")[1] == 1
