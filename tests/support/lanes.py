"""The tests that `make quick` leaves out, and the order in which files run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

# Files, folders and single tests that start containers, browsers or many processes, wait for a
# long time, or search many inputs. The longest come first: `make test` starts them first, so that
# no worker is left with a long file at the end.
SLOW = (
    "tests/e2e/test_docker.py",
    "tests/e2e/test_readme.py",
    "tests/e2e/test_make_run.py",
    "tests/training/test_command.py",
    "tests/examples/test_course.py",
    "tests/training/test_workers.py",
    "tests/training/test_publish.py",
    "tests/training/test_gate.py",
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
    "tests/client/test_protos.py",
    "tests/client/test_connections.py",
    "tests/client/test_several_servers.py",
    "tests/serving/test_load.py",
    "tests/serving/test_faults.py",
    "tests/serving/test_hostile_requests.py",
    "tests/serving/test_retries.py",
    "tests/serving/test_batching.py::test_callers_cannot_make_queues_without_limit",
    "tests/client/test_tables.py::test_large_tables_pass_in_little_memory",
    "tests/training/test_evaluation.py::test_the_intervals_are_those_of_rows_drawn_anew",
    "tests/training/test_evaluation.py::test_95_of_100_intervals_hold_the_true_accuracy",
    "tests/training/test_evaluation.py::test_many_rows_take_seconds",
    "tests/training/test_logistic_regression.py::test_the_course_s_exercise_and_its_published_fault",
    "tests/training/test_minimize.py::test_two_processes_give_the_same_bit_for_bit",
    "tests/training/test_reading.py::test_standard_input_is_read",
)


def mark_and_order(items: list[pytest.Item]) -> None:
    """Mark slow tests, and put the slow files first."""
    for item in items:
        if _place(item, SLOW) < len(SLOW):
            item.add_marker("slow")
    files = [path for path in SLOW if "::" not in path]
    items.sort(key=lambda item: _place(item, files))


def _place(item: pytest.Item, paths: Sequence[str]) -> int:
    """Return the index of the first path that a test belongs to, or the number of paths."""
    found = (i for i, path in enumerate(paths) if item.nodeid.startswith(path))
    return next(found, len(paths))
