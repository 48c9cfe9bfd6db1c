"""The command line: TensorFlow Serving's flags, and errors for unsupported ones."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.config.text_proto import ConfigError
from serving.model_servers.flags import ALWAYS_ON, UNSUPPORTED, UNSUPPORTED_DEFAULTS, Flags
from serving.model_servers.options import ServerOptions
from tests.serving.conftest import FailedStart, Serve, model_flags
from tests.support.affine import publish
from tests.support.caller import model_config, models_config
from tests.support.processes import ROOT, wait_for


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_the_flags_and_their_defaults() -> None:
    result = run("--help")
    assert result.returncode == 0
    for flag in (
        "--model_base_path",
        "--enable_batching",
        "--ssl_config_file",
        "--grpc_max_threads",
    ):
        assert flag in result.stdout
    assert "default: 8500" in " ".join(result.stdout.split())


def test_version_output_matches_tensorflow_model_server() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("TensorFlow ModelServer: ")
    assert "TensorFlow Library: 2." in result.stdout


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_flag_is_rejected_unless_it_has_its_default(
    failed_start: FailedStart, name: str
) -> None:
    for flag in (f"--{name}", f"--{name}=true", f"--{name}=0.5"):
        assert f"--{name}: {UNSUPPORTED[name]}" in failed_start("--model_base_path=x", flag)
    # The default value is accepted; the only error is the missing base path.
    assert f"--{name}" not in failed_start(f"--{name}={UNSUPPORTED_DEFAULTS.get(name, 'false')}")


def test_remote_base_path_is_rejected() -> None:
    with pytest.raises(ConfigError, match="--model_base_path: expected a local path, got gs://b/m"):
        ServerOptions.of(Flags(model_base_path="gs://b/m"))


def test_error_does_not_quote_the_ssl_config_file(tmp_path: Path) -> None:
    file = tmp_path / "ssl"
    file.write_text('server_key: "-----BEGIN PRIVATE KEY-----\\nMIIE')
    with pytest.raises(ConfigError) as error:
        ServerOptions.of(Flags(model_base_path="x", ssl_config_file=file))
    assert str(error.value) == f"--ssl_config_file {file}: 1:13 : cannot be parsed"


@pytest.mark.parametrize("path", ["metrics", "/metrics?a=b"])
def test_invalid_metrics_path_is_rejected(tmp_path: Path, path: str) -> None:
    file = tmp_path / "monitoring"
    file.write_text(f'prometheus_config {{ enable: true path: "{path}" }}')
    flags = Flags(model_base_path="x", rest_api_port=1, monitoring_config_file=file)
    with pytest.raises(ConfigError, match="expected a path that begins with / and has no query"):
        ServerOptions.of(flags)


@pytest.mark.parametrize(
    "text", ["inter_op_parallelism_threads: 4", "session_inter_op_thread_pool { num_threads: 4 }"]
)
def test_session_config_file_enables_the_inter_op_pool(tmp_path: Path, text: str) -> None:
    file = tmp_path / "session"
    file.write_text(text)
    options = ServerOptions.of(Flags(model_base_path="x", tensorflow_session_config_file=file))
    assert options.loader.use_inter_op_pool


def test_infinite_durations_become_the_maximum_timeout() -> None:
    options = ServerOptions.of(
        Flags(
            model_base_path="x",
            file_system_poll_wait_seconds=math.inf,
            model_config_file_poll_wait_seconds=math.inf,
            load_timeout_seconds=math.inf,
            load_retry_interval_micros=10**20,
        )
    )
    for seconds in (
        options.poll_wait_seconds,
        options.config_poll_seconds,
        options.manager.load_timeout,
        options.manager.load_retry_interval,
    ):
        assert seconds == threading.TIMEOUT_MAX  # a longer wait would raise OverflowError


@pytest.mark.parametrize("name", ALWAYS_ON)
def test_always_on_flag_is_rejected_if_false(failed_start: FailedStart, name: str) -> None:
    assert f"--{name}: {ALWAYS_ON[name]}" in failed_start("--model_base_path=x", f"--{name}=false")
    for flag in (f"--{name}", f"--{name}=true"):
        assert f"--{name}" not in failed_start(flag)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected either --model_base_path or --model_config_file"),
        (["--model_base_path=", "--model_config_file="], "expected either"),
        # TensorFlow Serving's image always sets a base path, so a config file takes precedence.
        (["--model_base_path=x", "--model_config_file=y"], "--model_config_file y: [Errno 2]"),
        (["--model_base_path=x", "--enable_nothing"], "No such option '--enable_nothing'"),
        (["--model_base_path=x", "surplus"], "unexpected extra argument"),
        (["--model_base_path=x", "--batching_parameters_file=y"], "without --enable_batching"),
        (["--model_base_path=x", "--enable_per_model_batching_parameters"], "--enable_batching"),
        (["--model_base_path=x", "--port=abc"], "'abc' is not a valid integer"),
        (["--model_base_path=x", "--port=70000"], "70000 is not in the range"),
        (["--model_base_path=x", "--enable_batching=perhaps"], "'perhaps' is not a valid boolean"),
        (["--model_base_path=x", "--max_num_load_retries=-1"], "-1 is not in the range"),
        (["--model_base_path=x", f"--tensorflow_session_parallelism={2**31}"], "not in the range"),
        (["--model_base_path=x", f"--load_retry_interval_micros={10**400}"], "is not in the range"),
        (["--model_base_path=x", f"--rest_api_timeout_in_ms={10**400}"], "is not in the range"),
        (["--model_base_path=x", "--rest_api_port=8500"], "--rest_api_port and --port are both"),
        (["--model_base_path=x", "--grpc_channel_arguments=a"], "expected name=value, got 'a'"),
        (
            [
                "--model_base_path=x",
                "--tensorflow_session_parallelism=2",
                "--tensorflow_inter_op_parallelism=1",
            ],
            "set it alone, or leave it out",
        ),
        (["--model_config_file=nosuch"], "--model_config_file nosuch: "),
        (["--model_base_path=x", "--ssl_config_file=nosuch"], "--ssl_config_file nosuch: "),
        (["--model_base_path=x", "--monitoring_config_file=nosuch"], "--monitoring_config_file"),
        (["--model_base_path=x", "--tensorflow_session_config_file=nosuch"], "No such file"),
        (
            ["--model_base_path=x", "--enable_batching", "--batching_parameters_file=nosuch"],
            "--batching_parameters_file nosuch: ",
        ),
    ],
)
def test_invalid_flags_are_reported_in_one_line(
    failed_start: FailedStart, flags: list[str], message: str
) -> None:
    (line,) = [line for line in failed_start(*flags).splitlines() if line.startswith("Error: ")]
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a model_config_list"),
        ("model_config_list { config { name: 3 } }", "models.config: 1:36"),
        (models_config('name: "a" base_path: "b"'), "to have an absolute path or URI"),
        (models_config('name: "a" base_path: "/b"', 'name: "a" base_path: "/c"'), "multiple times"),
        (
            'model_config_list { config { name: "a" base_path: "/b" } }',
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor",
        ),
        ("\xff", "models.config: "),
    ],
)
def test_invalid_model_config_file_is_reported_in_one_line(
    failed_start: FailedStart, tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "models.config"
    config.write_text(text, encoding="latin-1")
    log = failed_start(f"--model_config_file={config}")
    assert message in log
    assert len([line for line in log.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize(
    ("value", "is_on"),
    [("", True), ("=true", True), ("=1", True), ("=false", False), ("=0", False)],
)
def test_boolean_flag_value_is_optional(
    base_path: Path, serve: Serve, value: str, is_on: bool
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), f"--enable_serialization_as_tensor_content{value}")
    response = server.predict("m", {"x": [1.0]})
    assert bool(response.outputs["y"].tensor_content) is is_on


def test_relative_base_path_is_resolved_against_the_working_directory(
    base_path: Path, serve: Serve
) -> None:
    publish(base_path, 1)
    relative = Path("..", *[".."] * len(ROOT.parts), *base_path.parts[1:])
    server = serve("--model_name=m", f"--model_base_path={relative}")
    assert server.predict_x() == ([11.0], 1)


def test_base_path_may_be_a_file_uri(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve("--model_name=m", f"--model_base_path=file://{base_path}")
    assert server.predict_x() == ([11.0], 1)
    server.reload(models_config(f'name: "m" base_path: "file://{base_path}"'))
    assert server.predict_x() == ([11.0], 1)


def test_flags_with_an_empty_file_name_are_ignored(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    names = ("model_config", "monitoring_config", "ssl_config", "batching_parameters")
    server = serve(
        *model_flags(base_path), *(f"--{name}_file=" for name in names),
        "--tensorflow_session_config_file=", "--per_process_gpu_memory_fraction=0.0",
    )  # fmt: skip
    assert server.predict_x() == ([11.0], 1)


def test_model_is_named_default_without_a_name_flag(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    assert serve(f"--model_base_path={base_path}").predict_x(model="default") == ([11.0], 1)


def test_port_in_use_is_reported_before_loading(
    base_path: Path, serve: Serve, failed_start: FailedStart
) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path))
    port = server.running.address.rpartition(":")[2]
    log = failed_start(*model_flags(base_path), "--bind_address=127.0.0.1", f"--port={port}")
    assert log.strip() == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"
    log = failed_start(
        *model_flags(base_path), "--bind_address=127.0.0.1", "--port=0", f"--rest_api_port={port}"
    )
    assert log.strip() == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"


def test_address_of_another_machine_is_rejected(failed_start: FailedStart, base_path: Path) -> None:
    log = failed_start(*model_flags(base_path), "--bind_address=192.0.2.1", "--port=8500")
    assert "Error: cannot listen on 192.0.2.1:8500: " in log
    log = failed_start(*model_flags(base_path), "--bind_address=2001:db8::1", "--port=8500")
    assert "Error: cannot listen on [2001:db8::1]:8500: " in log


def test_poll_interval_of_zero_polls_once(base_path: Path, serve: Serve) -> None:
    publish(base_path, 1)
    server = serve(*model_flags(base_path), "--file_system_poll_wait_seconds=0")
    publish(base_path, 2)
    time.sleep(0.5)
    assert server.states() == {1: "AVAILABLE"}
    server.reload(models_config(model_config(base_path)))
    wait_for(lambda: server.is_available(2), "version 2 after a reload")
