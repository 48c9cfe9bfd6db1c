"""The model config file, and the pitfalls of TensorFlow Serving that it avoids."""

from __future__ import annotations

import shutil
import time

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from rollout.controller import utc_now
from rollout.model_config import model_config
from rollout.state import Rollout
from tests.conftest import Starter
from tests.rollout.conftest import FAST_POLLING, Serve, Site
from tests.support.caller import Caller, models_config, raises_rpc_error
from tests.support.caller import model_config as entry
from tests.support.processes import wait_for


def version_of(caller: Caller, label: str) -> int | None:
    """Return the version of a label, or None while the server does not have the label."""
    try:
        return caller.predict_x(label=label)[1]
    except grpc.RpcError:
        return None


def test_published_version_is_loaded_only_by_start(
    site: Site, serve: Serve, starter: Starter
) -> None:
    caller = serve()
    flags = ("--model_name=m", f"--model_base_path={site.models / 'm'}")
    with Caller(starter.model_server(*FAST_POLLING, *flags).address) as default:
        site.publish(2)
        wait_for(lambda: default.is_available(2), "the default policy serves version 2")
        assert caller.states() == {1: "AVAILABLE"}
        site("start", "--percent=10")
        assert caller.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
        site.publish(3)  # with `latest {num_versions: 2}` the stable version would be unloaded
        wait_for(lambda: default.is_available(3), "the default policy serves version 3")
        assert caller.states() == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_labels_are_written_after_every_server_has_loaded_the_version(
    site: Site, serve: Serve
) -> None:
    first, second = serve(), serve()
    site.publish(2)
    early_label = 'version_labels { key: "stable" value: 2 }'
    with raises_rpc_error("FAILED_PRECONDITION", "not currently available"):
        first.reload(models_config(entry(site.models / "m", early_label)))
    site("start", "--percent=10")
    assert 'key: "canary" value: 2' in site.config
    wait_for(lambda: version_of(first, "canary") == version_of(second, "canary") == 2, "labels")
    assert version_of(first, "stable") == version_of(second, "stable") == 1
    assert [state["phase"] for state in site.history()[1:]] == ["loading", "canary"]


def test_version_that_cannot_be_loaded_gets_no_traffic(site: Site, serve: Serve) -> None:
    caller = serve()
    (site.models / "m" / "2").mkdir()
    (site.models / "m" / "2" / "saved_model.pb").write_text("broken")
    assert "cannot load it" in site.expect_error("start", "2", "--percent=10")
    state = site.state()
    assert (state["phase"], state["stable"], state["canary"]) == ("rolled_back", 1, None)
    assert "version 2" in state["reason"]
    assert caller.predict_x()[1] == 1
    assert [state["phase"] for state in site.history()] == ["idle", "loading", "rolled_back"]

    shutil.rmtree(site.models / "m" / "2")
    site.publish(2)
    time.sleep(0.5)  # several polls
    site("start", "2", "--percent=10")
    assert caller.states() == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_previous_version_stays_loaded_for_rollback(site: Site, serve: Serve) -> None:
    caller = serve()
    site.publish(2)
    site("start", "2", "--percent=50")
    site("promote")
    assert site.state()["stable"] == 2
    wait_for(lambda: version_of(caller, "stable") == 2, "the label has moved")
    assert caller.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
    assert "version 2 is already the stable version" in site.expect_error("start", "2")
    site("rollback")
    assert (site.state()["stable"], site.state()["retiring"]) == (1, [2])
    wait_for(lambda: version_of(caller, "stable") == 1, "the label has moved back")
    assert "no previous version is loaded" in site.expect_error("rollback")


def test_server_can_start_during_a_rollout(site: Site, serve: Serve, starter: Starter) -> None:
    serve()
    site.publish(2)
    site("start", "2", "--percent=10")
    late_caller = serve()
    wait_for(lambda: version_of(late_caller, "canary") == 2, "the label is set")
    # Without the flag, a server exits if its first configuration has labels.
    config = f"--model_config_file={site.directory / 'models.config'}"
    with pytest.raises(AssertionError, match="not currently available"):
        starter.model_server(*FAST_POLLING, config)


def test_several_models_share_the_config_file(site: Site) -> None:
    site("init")
    (site.models / "other" / "7").mkdir(parents=True)
    site("init", "--model=other")
    parsed = text_format.Parse(site.config, model_server_config_pb2.ModelServerConfig())
    versions = {
        config.name: list(config.model_version_policy.specific.versions)
        for config in parsed.model_config_list.config
    }
    assert versions == {"m": [1], "other": [7]}


def test_names_and_paths_are_quoted() -> None:
    path = '/a "b"\\c\n/müller'
    text = model_config([Rollout('q"', path, 1, 1, utc_now(), utc_now())])
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (config,) = parsed.model_config_list.config
    assert (config.name, config.base_path) == ('q"', path)
    assert dict(config.version_labels) == {"stable": 1}
