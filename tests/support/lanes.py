"""The tests that `make quick` skips, and the order in which files run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.processes import ROOT

# Files, folders and single tests that start containers, browsers or many processes, wait for a
# long time, or search many inputs. The longest come first: `make test` starts them first, so that
# no worker is left with a long file at the end.
SLOW = (
    "tests/e2e/test_docker.py",
    "tests/e2e/test_readme.py",
    "tests/e2e/test_make_run.py",
    "tests/e2e/test_rollout.py",
    "tests/e2e/test_kubernetes.py",
    "tests/e2e/test_rollout_docker.py",
    "tests/training/test_command.py",
    "tests/examples/test_course.py",
    "tests/training/test_workers.py",
    "tests/training/test_publish.py",
    "tests/training/test_gate.py",
    "tests/monitoring/test_walkthrough.py",
    "tests/monitoring/test_retraining.py",
    "tests/client/test_channel.py",
    "tests/client/test_command.py",
    "tests/client/test_operating.py",
    "tests/training/test_interruption.py",
    "tests/client/test_schemathesis.py",
    "tests/client/test_many_inputs.py",
    "tests/client/test_tracing.py",
    "tests/client/test_reading_fuzz.py",
    "tests/client/test_hostile.py",
    "tests/contract/test_lifecycle_conformance.py",
    "tests/contract/test_grpc_api.py",
    "tests/contract/test_min_tfs_client.py",
    "tests/e2e",
    "tests/browser",
    "tests/rollout/test_servers.py",
    "tests/rollout/test_commands.py",
    "tests/rollout/test_judge.py",
    "tests/rollout/test_state.py::test_controller_recovers_from_a_kill_at_any_moment",
    "tests/rollout/test_verdicts.py::test_identical_versions_are_rarely_rolled_back",
    "tests/client/test_protos.py",
    "tests/client/test_connections.py",
    "tests/client/test_names.py",
    "tests/client/test_several_servers.py",
    "tests/client/test_rollouts.py",
    "tests/serving/test_load.py",
    "tests/serving/test_faults.py",
    "tests/serving/test_hostile_requests.py",
    "tests/serving/test_retries.py",
    "tests/training/test_report.py",
    "tests/training/test_solvers.py",
    "tests/training/test_reference.py",
    "tests/training/test_export.py",
    "tests/training/test_minimize.py",
    "tests/training/test_logistic_regression.py",
    "tests/training/test_agreement.py",
    "tests/client/test_mixed.py",
    "tests/client/test_tables.py",
    "tests/client/test_openapi.py",
    "tests/client/test_complete_model.py",
    "tests/client/test_stats.py",
    "tests/serving/test_lifecycle.py",
    "tests/serving/test_batching.py",
    "tests/serving/test_stopping.py",
    "tests/serving/test_grpc_port.py",
    "tests/deploy",
    "tests/client/test_logging_service.py",
    "tests/client/test_large_feedback.py",
    "tests/client/test_drift.py::test_false_alarm_rate_is_about_one_percent",
    "tests/training/test_evaluation.py::test_intervals_match_resampling",
    "tests/training/test_evaluation.py::test_intervals_cover_true_accuracy_at_nominal_rate",
    "tests/training/test_evaluation.py::test_bootstrap_of_many_rows_takes_seconds",
    "tests/training/test_reading.py::test_standard_input_is_read",
    "tests/training/test_reading.py::test_rows_and_line_numbers_do_not_depend_on_chunk_size",
    "tests/training/test_reading.py::test_line_numbers_continue_after_first_chunk",
    "tests/training/test_formats.py::test_large_file_is_read_in_batches",
    "tests/client/test_json_outputs.py::test_rows_and_columns_contain_every_value",
    "tests/client/test_codecs.py::test_batched_requests_decode_as_they_do_alone",
    "tests/client/test_batching.py::test_each_caller_gets_its_own_rows_or_its_own_error",
    "tests/monitoring/test_observability.py::test_drift_alert_reaches_alertmanager",
    "tests/monitoring/test_observability.py::test_every_dashboard_expression_has_a_result",
    "tests/monitoring/test_compaction.py::test_sigkill_during_compaction_loses_no_rows",
    "tests/monitoring/test_shipping.py::test_sigkill_during_shipping_loses_no_events",
    "tests/monitoring/test_drift.py::test_false_alarm_rate_is_at_most_alpha",
    "tests/monitoring/test_quality.py::test_intervals_cover_the_true_accuracy",
)


def is_slow(path: Path) -> bool:
    """Return whether all tests of a file or folder are slow."""
    name = path.relative_to(ROOT).as_posix()
    return any(name == slow or name.startswith(f"{slow}/") for slow in SLOW)


def mark_and_order(items: list[pytest.Item]) -> None:
    """Mark slow tests and put the slow files first."""
    for item in items:
        if _index(item, SLOW) < len(SLOW):
            item.add_marker("slow")
    files = [path for path in SLOW if "::" not in path]
    items.sort(key=lambda item: _index(item, files))


def _index(item: pytest.Item, paths: Sequence[str]) -> int:
    """Return the index of the first path that a test belongs to, or the number of paths."""
    indexes = (i for i, path in enumerate(paths) if item.nodeid.startswith(path))
    return next(indexes, len(paths))
